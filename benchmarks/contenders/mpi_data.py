"""Data parallelism written by hand with mpi4py: gradients are summed after backward, small ones in one flat buffer.

Large gradients are summed where they lie: copying them into a flat buffer would cost as much as the sum.
(Batch normalisation sees each process's part of the batch alone.)
"""

from __future__ import annotations

import torch
from mpi4py import MPI
from torch import Tensor

from benchmarks.models import Model, batch, loss_of, seeded

LARGE = 1 << 18  # elements


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
        self.sum_gradients([p.grad for p in self.module.parameters() if p.grad is not None])
        self.optimizer.step()
        return float(self.comm.allreduce(loss.item())) / self.size

    def sum_gradients(self, gradients: list[Tensor]) -> None:
        small = [gradient for gradient in gradients if gradient.numel() < LARGE]
        for gradient in gradients:
            if gradient.numel() >= LARGE:
                self.all_reduce(gradient)
        flat = torch.cat([gradient.flatten() for gradient in small])
        self.all_reduce(flat)
        for gradient, part in zip(small, flat.split([gradient.numel() for gradient in small]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def all_reduce(self, tensor: Tensor) -> None:
        self.comm.Allreduce(MPI.IN_PLACE, tensor.numpy())

    def close(self) -> None:
        pass


def start(model: Model, folder: str) -> DataParallel:
    return DataParallel(model)
