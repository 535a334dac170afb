"""Partial to Replicate: the sum over the ranks.

forward    y   = sum_i x_i                  all-reduce, the same to the bit on every rank
adjoint    dx_i = dy                        nothing: y is replicated, so dy is one tensor, and every addend has it
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import sum_whole
from autopar.runtime.primitives.autograd import Context, apply


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, axis: Axis) -> Tensor:
        return sum_whole(x, axis)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None


def all_sum(x: Tensor, axis: Axis) -> Tensor:
    """The sum over the axis of the addends `x`, replicated."""
    return x if axis.size == 1 else apply(_AllSum, x, axis)
