"""Shard to Partial: every rank's part in its place and zeros elsewhere, so that the sum over the ranks is the whole.

forward    y_i = P_i* x_i                   no communication
adjoint    dx_i = P_i dy                    slice: y's gradient is copied, that is, the same on every rank
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import Cut, cut_local, fill_with_zeros
from autopar.runtime.primitives.autograd import Context, apply


class _ZeroFill(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, axis: Axis, cut: Cut) -> Tensor:
        ctx.axis, ctx.cut = axis, cut
        return fill_with_zeros(x, cut, axis.index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.cut.part(grad, ctx.axis.index), None, None


def zero_fill(x: Tensor, dim: int, axis: Axis, extent: int, blocks: int = 1, unit: int = 1) -> Tensor:
    """An addend of the whole tensor of which `x` is this rank's part; `extent` is the whole extent of `dim`."""
    cut = cut_local(x, dim, axis, extent, blocks, unit)
    return x if axis.size == 1 else apply(_ZeroFill, x, axis, cut)
