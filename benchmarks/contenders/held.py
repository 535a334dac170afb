"""The program that autopar wrote, with the bounds that it begins with, each rank held to a core.

Leaves ``compute.json`` in the folder: per step the compute seconds of each rank, its wall seconds less those inside communication.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.competitor import make_way
from benchmarks.contenders.compiled import CompiledTrainer
from benchmarks.models import Model


def core_of(rank: int, ranks: int, cores: Sequence[int]) -> int:
    """The core to which a rank is held: ranks lie in order on as many cores as there are, at most one each."""
    return cores[rank * min(len(cores), ranks) // ranks]


class Held(CompiledTrainer):
    """This rank's part of the model."""

    def __init__(self, model: Model, folder: Path) -> None:
        super().__init__(model, folder / "compiled")
        os.sched_setaffinity(0, {core_of(self.rank, self.session.grid.size, sorted(os.sched_getaffinity(0)))})
        make_way()
        self.folder = folder
        self.compute: list[float] = []

    def step(self) -> float:
        start, waited = time.perf_counter(), self.session.communication_seconds
        loss = super().step()
        self.compute.append(time.perf_counter() - start - (self.session.communication_seconds - waited))
        return loss

    def close(self) -> None:
        every = self.session.grid.comm.gather_objects(self.compute)
        if self.rank == 0:
            (self.folder / "compute.json").write_text(json.dumps(list(zip(*every, strict=True))))
        super().close()


def start(model: Model, folder: str) -> Held:
    return Held(model, Path(folder))
