"""Data parallelism written by hand with mpi4py. (Batch normalisation sees each process's part of the batch alone.)"""

from __future__ import annotations

import torch
from mpi4py import MPI
from torch import Tensor

from benchmarks.contenders.gradient_sums import sum_gradients
from benchmarks.models import Model, batch, loss_of, seeded


class DataParallel:
    """A replica of the model and a part of the batch."""

    def __init__(self, model: Model) -> None:
        self.comm = MPI.COMM_WORLD
        self.rank, self.size = self.comm.rank, self.comm.size
        self.module = seeded(model)
        self.inputs = {name: tensor.chunk(self.size)[self.rank] for name, tensor in batch(model).items()}
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=model.rate)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = loss_of(self.module(**self.inputs))
        (loss / self.size).backward()
        sum_gradients(self.module.parameters(), self.all_reduce)
        self.optimizer.step()
        return float(self.comm.allreduce(loss.item())) / self.size

    def all_reduce(self, tensor: Tensor) -> None:
        self.comm.Allreduce(MPI.IN_PLACE, tensor.numpy())

    def close(self) -> None:
        pass


def start(model: Model, folder: str) -> DataParallel:
    return DataParallel(model)
