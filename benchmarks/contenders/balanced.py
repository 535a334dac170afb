"""The program that autopar wrote, with the scheduler on, each rank on a core of its own.

Leaves ``steps.json`` (per step the rows of each rank and its compute seconds) and ``final.safetensors`` (all parameters)
in the folder.
"""

from __future__ import annotations

import json
import os
import time
from itertools import pairwise
from pathlib import Path

from autopar.runtime.parameters import sources
from autopar.runtime.training.planned_work import cut_extents, planned_work
from autopar.runtime.training.scheduler import Scheduler
from benchmarks.contenders.compiled import CompiledTrainer
from benchmarks.models import Model


class Balanced(CompiledTrainer):
    """This rank's part of the model, which may change from step to step. The grid has one axis."""

    def __init__(self, model: Model, folder: Path) -> None:
        super().__init__(model, folder / "compiled")
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[self.rank]})
        self.folder = folder
        self.scheduler = Scheduler(self.session, self.optimizer)
        (extents,) = cut_extents(planned_work(self.session))
        self.axis, self.extent = self.session.grid.axes[0], max(extents)
        self.rows: list[list[int]] = []
        self.compute: list[float] = []

    def step(self) -> float:
        self.rows.append([high - low for low, high in pairwise(self.axis.bounds(self.extent))])
        with self.scheduler.step():
            start, waited = time.perf_counter(), self.session.communication_seconds
            loss = super().step()
            self.compute.append(time.perf_counter() - start - (self.session.communication_seconds - waited))
        return loss

    def close(self) -> None:
        state = self.session.full_state_dict(rank0_only=True)
        compute = [list(step) for step in zip(*self.session.grid.comm.gather_objects(self.compute), strict=True)]
        if self.rank == 0:
            (self.folder / "steps.json").write_text(json.dumps({"rows": self.rows, "compute": compute}))
            sources.save(state, self.folder / "final.safetensors")
        super().close()


def start(model: Model, folder: str) -> Balanced:
    return Balanced(model, Path(folder))
