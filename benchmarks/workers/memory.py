"""One rank of `benchmarks.memory`: trains a compiled model for a few steps and says what the last one held, as JSON on rank 0."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from autopar.runtime.profiling.memory_use import MemoryUse, memory_use
from autopar.runtime.transport.world import default_world
from benchmarks.contenders.compiled import open_session
from benchmarks.models import batch, seeded
from benchmarks.zoo_models import EVERY

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
}
STEPS = 2  # before the one that is measured: the optimizer's state is made in the first


def main(name: str, size: str, optimizer_name: str, folder: str, full: str = "") -> None:
    torch.set_num_threads(1)
    model = EVERY[name](size == "small")
    session = open_session(Path(folder), seeded(model))
    inputs = batch(model)
    optimizer = OPTIMIZERS[optimizer_name](session.parameters())

    def step() -> None:
        loss = session(**inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(STEPS):
        step()
    with memory_use() as used:
        step()
    every = default_world().gather_objects(summary(used, full))
    if session.grid.rank == 0:
        print(json.dumps(every))
    session.free()
    session.grid.free()


def summary(used: MemoryUse, full: str) -> dict[str, object]:
    """What is told of one rank."""
    found: dict[str, object] = {"peak": used.peak, "before": used.before, "during": used.peak_during}
    if full:
        found["timeline"] = [(one.seconds, one.nbytes, one.during) for one in used.timeline]
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
