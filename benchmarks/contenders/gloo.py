"""Processes that meet over gloo through a file; RANK and WORLD_SIZE are in the environment, as under torchrun."""

from __future__ import annotations

import os
from pathlib import Path

import torch.distributed as dist


def meet(folder: str, name: str) -> tuple[int, int]:
    """Open the default process group. Returns rank and size."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = Path(folder).resolve() / f"meet-{name}"
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=size)
    return rank, size


def mean(value: float) -> float:
    """The mean over all processes: of losses of equal parts of a batch, the loss of the batch."""
    import torch

    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()
