"""torch's DistributedDataParallel over gloo. (Its batch normalisation sees each process's part of the batch alone.)"""

from __future__ import annotations

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.contenders.gloo import mean, meet
from benchmarks.contenders.single import Single
from benchmarks.models import Model, seeded


class DDP(Single):
    """A replica of the model and a part of the batch."""

    def __init__(self, model: Model, folder: str) -> None:
        self.rank, size = meet(folder, "ddp")
        super().__init__(model, DistributedDataParallel(seeded(model), gradient_as_bucket_view=True))
        self.inputs = {name: tensor.chunk(size)[self.rank] for name, tensor in self.inputs.items()}

    def step(self) -> float:
        return mean(super().step())

    def close(self) -> None:
        dist.destroy_process_group()


def start(model: Model, folder: str) -> DDP:
    return DDP(model, folder)
