"""Copied to Replicate: all uses of x are one use from here on.

forward    y = x                            nothing
adjoint    dx_0 = dy,  dx_i = 0 for i > 0   keep: the addends of a gradient that must be counted once
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.grid.grid import Axis
from autopar.runtime.primitives.autograd import Context, apply


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (grad if ctx.axis.index == 0 else torch.zeros_like(grad)), None


def once(x: Tensor, axis: Axis) -> Tensor:
    """`x` itself; its gradient is counted on the first rank of the axis only."""
    return x if axis.size == 1 else apply(_Once, x, axis)
