"""The program that autopar wrote, with the scheduler on, each rank on a core of its own.

Leaves ``cuts.json`` (the cuts of every axis after each step) and ``final.safetensors`` (all parameters) in the folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from autopar.runtime import sources
from autopar.runtime.scheduler import Scheduler
from contenders.compiled import Compiled
from models import Model


class Balanced(Compiled):
    """This rank's part of the model, which may change from step to step."""

    def __init__(self, model: Model, folder: Path) -> None:
        super().__init__(model, folder / "compiled")
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[self.rank]})
        self.folder = folder
        self.scheduler = Scheduler(self.session, self.optimizer)
        self.cuts: list[dict[str, tuple[float, ...] | None]] = []

    def step(self) -> float:
        with self.scheduler.step():
            loss = super().step()
        self.cuts.append({axis.name: axis.cuts for axis in self.session.grid.axes})
        return loss

    def close(self) -> None:
        state = self.session.full_state_dict(rank0_only=True)
        if self.rank == 0:
            (self.folder / "cuts.json").write_text(json.dumps(self.cuts))
            sources.save(state, self.folder / "final.safetensors")
        super().close()


def start(model: Model, folder: str) -> Balanced:
    return Balanced(model, Path(folder))
