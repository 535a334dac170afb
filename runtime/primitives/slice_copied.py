"""Copied to Shard: every rank takes its part of what it holds whole.

forward    y_i = P_i x                      no communication
adjoint    dx_i = P_i* dy_i                 zeros elsewhere: each rank's gradient is an addend
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import Cut, cut_whole, fill_with_zeros
from autopar.runtime.primitives.autograd import Context, apply


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, axis: Axis, cut: Cut) -> Tensor:
        ctx.axis, ctx.cut = axis, cut
        return cut.part(x, axis.index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        return fill_with_zeros(grad, ctx.cut, ctx.axis.index), None, None


def take(x: Tensor, dim: int, axis: Axis, blocks: int = 1, unit: int = 1) -> Tensor:
    """This rank's part of `dim` of the copied `x`; the dim is read as ``blocks x m x unit`` and m is cut."""
    return x if axis.size == 1 else apply(_Take, x, axis, cut_whole(x, dim, axis, blocks, unit))
