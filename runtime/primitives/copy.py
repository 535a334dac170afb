"""Replicate to Copied: each rank's use of x is its own from here on.

forward    y_i = x                          nothing
adjoint    dx  = sum_i dy_i                 all-reduce (Hewett and Grady: the adjoint of a copy is a sum)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import sum_whole
from autopar.runtime.primitives.autograd import Context, apply


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        return sum_whole(grad, ctx.axis), None


def copy(x: Tensor, axis: Axis) -> Tensor:
    """`x` itself; its gradient is the sum over the axis of the gradients of the ranks' copies."""
    return x if axis.size == 1 else apply(_Copy, x, axis)
