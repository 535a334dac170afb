"""Replicate to Shard: every rank keeps its part.

With x on every rank and P_i the slice of rank i, all uses of x are one use, and so its gradient is one tensor to which
every rank contributes the part it computed:

    forward    y_i = P_i x                      no communication
    adjoint    dx  = sum_i P_i* dy_i            all-gather: the parts are disjoint, so the sum is a concatenation
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import Cut, cut_whole, gather_parts
from autopar.runtime.primitives.autograd import Context, apply


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, axis: Axis, cut: Cut) -> Tensor:
        ctx.axis, ctx.cut = axis, cut
        return cut.part(x, axis.index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        return gather_parts(grad, ctx.axis, ctx.cut), None, None


def split(x: Tensor, dim: int, axis: Axis, blocks: int = 1, unit: int = 1) -> Tensor:
    """This rank's part of `dim` of the replicated `x`; the dim is read as ``blocks x m x unit`` and m is cut."""
    return x if axis.size == 1 else apply(_Split, x, axis, cut_whole(x, dim, axis, blocks, unit))
