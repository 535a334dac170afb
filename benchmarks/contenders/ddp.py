"""torch's DistributedDataParallel over gloo. (Its batch normalisation sees each process's part of the batch alone.)"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.contenders.gloo import mean, meet
from benchmarks.models import Model, batch, loss_of, seeded


class DDP:
    """A replica of the model and a part of the batch."""

    def __init__(self, model: Model, folder: str) -> None:
        self.rank, size = meet(folder, "ddp")
        self.module = DistributedDataParallel(seeded(model), gradient_as_bucket_view=True)
        self.inputs = {name: tensor.chunk(size)[self.rank] for name, tensor in batch(model).items()}
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=model.rate)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = loss_of(self.module(**self.inputs))
        loss.backward()
        self.optimizer.step()
        return mean(loss.item())

    def close(self) -> None:
        dist.destroy_process_group()


def start(model: Model, folder: str) -> DDP:
    return DDP(model, folder)
