"""Three models for two ranks, compiled by `test_memory_use.py`; under mpiexec trains them there.

Prints per model the bytes that the plan predicts at the peak and that were measured on the last rank.
"""

import json
import pickle
import sys
from pathlib import Path

import torch
from small_models import ConvNet, Gpt, Mlp

from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.profiling.memory_use import memory_use
from autopar.runtime.program.plan_reader import parse_description
from autopar.runtime.session.parallel_module import Parallel

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


def peaks(build, inputs, options, source, plan, predicted):
    torch.manual_seed(3)
    given = inputs()
    names = {"__name__": "program"}
    exec(source, names)
    parallel = Parallel(names["PROGRAM"], parse_description(plan, "plan.json"), module_values(build()))
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
    parallel.free()
    parallel.grid.free()
    return predicted[0], used.peak, predicted[1], used.peak_during


def main(compiled):
    from mpi4py import MPI  # starts MPI, which the process of the tests must not

    found = {name: peaks(*case, *compiled[name]) for name, case in CASES.items()}
    found = MPI.COMM_WORLD.bcast(found, root=1)
    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main(pickle.loads(Path(sys.argv[1]).read_bytes()))
