"""Running sums along a dim whose rows are split over an axis.

Rank r holds the rows x_r, with t_r their sum:

    forward    y_r  = cumsum(x_r) + sum of t_q over q < r           one all-gather of the ranks' sums
    adjoint    dx_r = reverse cumsum(dy_r) + sum of u_q over q > r  u_q the sum of dy_q, gathered the same way
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from autopar.runtime.grid.grid import Axis
from autopar.runtime.primitives.autograd import apply


class _Context(FunctionCtx):
    dim: int
    axis: Axis
    dtype: torch.dtype


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, axis: Axis, dtype: torch.dtype | None) -> Tensor:  # noqa: ANN401
        ctx.dim, ctx.axis, ctx.dtype = dim, axis, x.dtype
        y = x.cumsum(dim, dtype=dtype)
        return y + _totals(x.sum(dim, keepdim=True, dtype=y.dtype), axis)[: axis.index].sum(0, dtype=y.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        after = _totals(grad.sum(ctx.dim, keepdim=True), ctx.axis)[ctx.axis.index + 1 :].sum(0)
        back = grad.flip(ctx.dim).cumsum(ctx.dim).flip(ctx.dim) + after
        return back.to(ctx.dtype), None, None, None


def cumsum(x: Tensor, dim: int, axis: Axis, dtype: torch.dtype | None = None) -> Tensor:
    """``x.cumsum(dim, dtype=dtype)`` of the rows of all ranks of `axis`, of which `x` holds this rank's."""
    return apply(_Scan, x, dim, axis, dtype)


def _totals(own: Tensor, axis: Axis) -> Tensor:
    """The sums of all ranks along a new first dim."""
    every = own.new_empty(axis.size, *own.shape)
    axis.comm.all_gather(own.contiguous(), every)
    return every
