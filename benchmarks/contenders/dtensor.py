"""torch's DTensor tensor parallelism over gloo: linear layers split by columns and rows in turn."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from contenders.gloo import meet
from models import Model, batch, loss_of, seeded

STYLES = {"fc1": ColwiseParallel, "fc2": RowwiseParallel, "fc3": ColwiseParallel, "fc4": RowwiseParallel}


class TensorParallel:
    """Half of every weight, and the whole batch."""

    def __init__(self, model: Model, folder: str) -> None:
        self.rank, size = meet(folder, "dtensor")
        mesh = init_device_mesh("cpu", (size,))
        self.module = parallelize_module(seeded(model), mesh, {name: style() for name, style in STYLES.items()})
        self.inputs = batch(model)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=model.rate)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = loss_of(self.module(**self.inputs))
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def close(self) -> None:
        dist.destroy_process_group()


def start(model: Model, folder: str) -> TensorParallel:
    return TensorParallel(model, folder)
