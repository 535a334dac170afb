"""The norm of a whole gradient of which every rank holds a part, and clipping by it.

A tensor that is sharded over some axes and whole over the others is counted by the ranks at index 0 of the others:
every element is counted once. ``norm = (sum over ranks of sum |g|^p)^(1/p)``, or the largest |g|.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from autopar.ir.layout import Layouts, Shard
from autopar.runtime.grid.grid import Grid


def counts(grid: Grid, layouts: Layouts) -> bool:
    """Whether this rank counts its part of a tensor with these layouts."""
    return all(isinstance(layout, Shard) or axis.index == 0 for axis, layout in zip(grid.axes, layouts, strict=True))


def global_norm(grid: Grid, gradients: Iterable[tuple[Tensor, Layouts]], norm_type: float) -> float:
    """The norm over all elements of all whole gradients, in float64. Collective."""
    mine = [gradient for gradient, layouts in gradients if counts(grid, layouts) and gradient.numel()]
    if math.isinf(norm_type):
        largest = max((float(gradient.abs().max()) for gradient in mine), default=0.0)
        return max(float(str(norm)) for norm in grid.comm.gather_objects(str(largest)))  # JSON has no infinity
    sizes = (gradient.abs() if gradient.is_complex() else gradient for gradient in mine)
    powers = (torch.linalg.vector_norm(size, norm_type, dtype=torch.float64) ** norm_type for size in sizes)
    total = sum(powers, start=torch.zeros((), dtype=torch.float64)).reshape(1)
    grid.comm.all_reduce(total)
    return float(float(total) ** (1.0 / norm_type))


def scale(tensors: Iterable[Tensor], norm: float, max_norm: float) -> None:
    """Scale gradients in place so that `norm` becomes at most `max_norm`, as `torch.nn.utils.clip_grad_norm_` does."""
    factor = min(1.0, max_norm / (norm + 1e-6)) if not math.isnan(norm) else norm
    for tensor in tensors:
        if tensor.grad is not None:
            tensor.grad.mul_(factor)
