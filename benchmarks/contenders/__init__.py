"""Who is measured: one file per way to train a model, and the table of them, slowest to set up last.

A contender's file has ``start(model, folder) -> Trainer``, called in each of its processes.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal, Protocol

from benchmarks.models import Model


class Trainer(Protocol):
    """One process of a contender, ready to train."""

    rank: int

    def step(self) -> float:
        """Forward, backward, optimizer: one step on the model's batch. Returns the loss of the whole batch."""

    def close(self) -> None:
        """Give back what was opened."""


@dataclass(frozen=True, slots=True)
class Contender:
    """How a contender is launched: alone, by processes that meet over gloo, or by mpiexec."""

    name: str
    title: str
    module: str
    launch: Literal["alone", "gloo", "mpi"]
    threads: int = 1
    processes: int = 2

    @property
    def ranks(self) -> int:
        return 1 if self.launch == "alone" else self.processes


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("single1", "1 process, 1 thread", "single", "alone"),
        Contender("single2", "1 process, 2 threads", "single", "alone", threads=2),
        Contender("ddp", "DDP gloo", "ddp", "gloo"),
        Contender("dtensor", "DTensor tensor parallel gloo", "dtensor", "gloo"),
        Contender("mpi", "hand-written MPI data parallel", "mpi_data", "mpi"),
        Contender("hand", "autopar's plan written by hand", "by_hand", "mpi"),
        Contender("autopar", "autopar", "compiled", "mpi"),
    )
}

# autopar as it begins, each rank held to a core: for benchmarks.unequal.
HELD = Contender("held", "autopar's division as planned", "held", "mpi")

# torch's pipelining, for benchmarks.pipeline: it reads the division in its folder.
STAGED = Contender("staged", "torch.distributed.pipelining gloo", "staged", "gloo")
EVERY = CONTENDERS | {contender.name: contender for contender in (HELD, STAGED)}


def start(contender: Contender, model: Model, folder: str) -> Trainer:
    """Open the contender in this process. `folder` holds what was compiled for it, and files that processes meet at."""
    trainer: Trainer = importlib.import_module(f"benchmarks.contenders.{contender.module}").start(model, folder)
    return trainer


def refusal(contender: Contender, model: Model) -> str:
    """Why this contender cannot train this model at all; empty where it can."""
    if contender.name in ("ddp", "mpi") and model.samples < 2:
        return "a batch of 1 cannot be split"
    if contender.name == "dtensor" and model.name != "mlp":
        return "no tensor-parallel styles for this model" if model.name == "gpt2" else "convolutions are not supported"
    return ""
