"""Trains three models on two ranks, and prints per model the bytes that the plan predicts at the peak and that were measured.

Measured on the last rank, which has not compiled the model.
"""

import json

import torch
from mpi4py import MPI
from small_models import ConvNet, Gpt, Mlp

import autopar
from autopar.runtime.profiling.memory_use import memory_use

CASES = {
    "mlp": (lambda: Mlp(256, 1024, 256), lambda: {"x": torch.randn(512, 256), "y": torch.randn(512, 256)}, {}),
    "whole mlp": (
        lambda: Mlp(256, 1024, 256),
        lambda: {"x": torch.randn(512, 256), "y": torch.randn(512, 256)},
        {"pin": ["fc*: b0@axis0"], "optimizer": "sgd"},
    ),
    "gpt": (lambda: Gpt(128, 4, 2048, 64, 3), lambda: {"ids": torch.randint(2048, (8, 64))}, {}),
    "images": (
        lambda: ConvNet(64),
        lambda: {"images": torch.randn(16, 2, 64, 64), "labels": torch.zeros(16).long()},
        {},
    ),
}


def peaks(build, inputs, options):
    torch.manual_seed(3)
    given = inputs()
    parallel = autopar.parallelize(build, given, grid="2", **options)
    kind = torch.optim.SGD if options.get("optimizer") == "sgd" else torch.optim.AdamW
    optimizer = kind(parallel.parameters(), lr=1e-3)

    def step():
        parallel(**given).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    step()
    with memory_use() as nothing:
        pass
    held = sum(one.nbytes for one in parallel.parameters())
    with memory_use() as used:
        step()
    assert nothing.before == used.before > held
    predicted = parallel.plan.predicted
    parallel.free()
    parallel.grid.free()
    return predicted.bytes, used.peak, predicted.peak_during, used.peak_during


found = {name: peaks(*case) for name, case in CASES.items()}
found = MPI.COMM_WORLD.bcast(found, root=1)
if MPI.COMM_WORLD.rank == 0:
    print(json.dumps(found))
