"""The plain PyTorch loop in one process."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.models import Model, batch, loss_of, seeded


class Single:
    """The whole model and batch in this process, or a module made of the seeded one."""

    rank = 0

    def __init__(self, model: Model, module: nn.Module | None = None) -> None:
        self.module = seeded(model) if module is None else module
        self.inputs = batch(model)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=model.rate)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = loss_of(self.module(**self.inputs))
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def close(self) -> None:
        pass


def start(model: Model, folder: str) -> Single:
    return Single(model)
