"""Shard to Replicate: the parts of all ranks, one after another.

forward    y   = sum_i P_i* x_i             all-gather
adjoint    dx_i = P_i dy                    slice: y is replicated, so dy is the same on every rank
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import Cut, cut_local, gather_parts
from autopar.runtime.primitives.autograd import Context, apply


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, axis: Axis, cut: Cut) -> Tensor:
        ctx.axis, ctx.cut = axis, cut
        return gather_parts(x, axis, cut)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.cut.part(grad, ctx.axis.index), None, None


def gather(x: Tensor, dim: int, axis: Axis, extent: int, blocks: int = 1, unit: int = 1) -> Tensor:
    """The whole tensor, replicated, of which `x` is this rank's part; `extent` is the whole extent of `dim`."""
    cut = cut_local(x, dim, axis, extent, blocks, unit)
    return x if axis.size == 1 else apply(_Gather, x, axis, cut)
