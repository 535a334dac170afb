"""Partial to Shard: the sum over the ranks, of which each keeps its part.

forward    y_i = P_i sum_j x_j              reduce-scatter
adjoint    dx_j = sum_i P_i* dy_i           all-gather: every addend has the gradient of the sum
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import Cut, cut_whole, gather_parts, sum_parts
from autopar.runtime.primitives.autograd import Context, apply


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, axis: Axis, cut: Cut) -> Tensor:
        ctx.axis, ctx.cut = axis, cut
        return sum_parts(x, axis, cut)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        return gather_parts(grad, ctx.axis, ctx.cut), None, None


def reduce_scatter(x: Tensor, dim: int, axis: Axis, blocks: int = 1, unit: int = 1) -> Tensor:
    """This rank's part of `dim` of the sum over the axis of the addends `x`."""
    return x if axis.size == 1 else apply(_ReduceScatter, x, axis, cut_whole(x, dim, axis, blocks, unit))
