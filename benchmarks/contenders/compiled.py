"""The program that autopar wrote, on the runtime, with the bounds as they are."""

from __future__ import annotations

import importlib.util
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from autopar.ir.bucketing import BUCKET_BYTES
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.parameters.sources import from_file
from autopar.runtime.program.plan_reader import read_description
from autopar.runtime.session.parallel_module import Parallel
from benchmarks.models import Model, batch, seeded


def open_session(
    folder: Path, module: nn.Module, dtype: torch.dtype | None = None, bucket_bytes: int = BUCKET_BYTES
) -> Parallel:
    """The compiled folder with a module's parameters. The one place here that knows how a folder is loaded."""
    spec = importlib.util.spec_from_file_location("program", folder / "program.py")
    assert spec
    assert spec.loader
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    constants = folder / "constants.safetensors"
    description = read_description(folder / "plan.json")
    known = {name for item in description.parameters for name in (item.name, *item.aliases)}
    values = chain(module_values(module), from_file(constants) if constants.exists() else ())
    read = ((name, value) for name, value in values if name in known)  # a module may have buffers that nobody reads
    return Parallel(program.PROGRAM, description, read, dtype, bucket_bytes)


class CompiledTrainer:
    """This rank's part of the model."""

    def __init__(self, model: Model, folder: Path, bucket_bytes: int = BUCKET_BYTES) -> None:
        self.session = open_session(folder, seeded(model), bucket_bytes=bucket_bytes)
        self.rank = self.session.grid.rank
        self.inputs = batch(model)
        self.optimizer = torch.optim.SGD(self.session.parameters(), lr=model.rate)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    def loss(self) -> Tensor:
        loss: Tensor = self.session(**self.inputs)
        return loss

    def close(self) -> None:
        self.session.free()
        self.session.grid.free()


def start(model: Model, folder: str) -> CompiledTrainer:
    return CompiledTrainer(model, Path(folder) / "compiled")
