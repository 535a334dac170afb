"""torch's DTensor tensor parallelism over gloo: linear layers split by columns and rows in turn."""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.contenders.gloo import meet
from benchmarks.contenders.single import Single
from benchmarks.models import Model, seeded

STYLES = {"fc1": ColwiseParallel, "fc2": RowwiseParallel, "fc3": ColwiseParallel, "fc4": RowwiseParallel}


class TensorParallel(Single):
    """Half of every weight, and the whole batch."""

    def __init__(self, model: Model, folder: str) -> None:
        self.rank, size = meet(folder, "dtensor")
        mesh = init_device_mesh("cpu", (size,))
        styles = {name: style() for name, style in STYLES.items()}
        super().__init__(model, parallelize_module(seeded(model), mesh, styles))

    def close(self) -> None:
        dist.destroy_process_group()


def start(model: Model, folder: str) -> TensorParallel:
    return TensorParallel(model, folder)
