"""Small tensors of all ranks of some axes together, without gradient: what statistics and counts are made of."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from autopar.runtime.grid.grid import Axis


def gathered(x: Tensor, axis: Axis) -> Tensor:
    """The tensors of all ranks of the axis, one after another along a new first dim."""
    every = x.new_empty(axis.size, *x.shape)
    axis.comm.all_gather(x.contiguous(), every)
    return every


def summed(x: Tensor, axes: Iterable[Axis]) -> Tensor:
    """The sum over all ranks of the axes; it takes the place of `x`, where that is contiguous."""
    x = x.contiguous()
    for axis in axes:
        axis.comm.all_reduce(x)
    return x


def log_sum_exp(x: Tensor, axes: Iterable[Axis]) -> Tensor:
    """log sum exp x over all ranks of the axes, one all-gather each."""
    for axis in axes:
        x = torch.logsumexp(gathered(x, axis), 0)
    return x
