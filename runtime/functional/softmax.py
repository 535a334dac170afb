"""Softmax and its logarithm over a dim whose rows lie on several ranks.

With m_i the largest of rank i's rows and s_i = sum exp(x - m_i) over them, one all-gather per axis brings (m_i, s_i)
together, two numbers per vector of the dim:

    m = max m_i        s = sum s_i exp(m_i - m)
    softmax            y = exp(x - m) / s          dx = y (dy - t)             t = sum dy y
    log_softmax        y = x - m - log s           dx = dy - exp(y) t          t = sum dy

t is a sum over all rows, one all-reduce per axis. (m, s) of parts combine like those of single rows: this is the
online softmax of Milakov and Gimelshein (2018).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.functional.across_ranks import gathered, summed
from autopar.runtime.grid.grid import Axis
from autopar.runtime.local.autocast import wide_dtype
from autopar.runtime.primitives.autograd import Context, apply


def softmax(x: Tensor, dim: int, over: tuple[Axis, ...] = (), dtype: torch.dtype | None = None) -> Tensor:
    """`torch.nn.functional.softmax` over `dim`, which the axes of `over` split."""
    return _normalised(x, dim, over, dtype, False)


def log_softmax(x: Tensor, dim: int, over: tuple[Axis, ...] = (), dtype: torch.dtype | None = None) -> Tensor:
    """`torch.nn.functional.log_softmax` over `dim`, which the axes of `over` split."""
    return _normalised(x, dim, over, dtype, True)


def _normalised(x: Tensor, dim: int, over: tuple[Axis, ...], dtype: torch.dtype | None, log: bool) -> Tensor:
    kind = x.dtype if dtype is None else dtype
    wide = x.to(wide_dtype(kind))
    return apply(_Softmax, wide, dim, tuple(axis for axis in over if axis.size > 1), log).to(kind)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, dim: int, axes: tuple[Axis, ...], log: bool) -> Tensor:
        shape = (*x.shape[: dim % x.dim()], 1, *x.shape[dim % x.dim() + 1 :])
        near = _finite(x.amax(dim, keepdim=True) if x.shape[dim] else x.new_full(shape, -math.inf))
        powers = torch.exp(x - near)
        top, total = near, powers.sum(dim, keepdim=True)
        for axis in axes:
            top, total = _combined(top, total, axis)
        y = x - top - total.log() if log else powers.mul_(torch.exp(near - top) / total)
        ctx.save_for_backward(y)
        ctx.arguments = dim, axes, log
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        (y,), (dim, axes, log) = ctx.saved_tensors, ctx.arguments
        total = summed((grad if log else grad * y).sum(dim, keepdim=True), axes)
        dx = torch.addcmul(grad, y.exp(), total, value=-1) if log else (grad - total).mul_(y)
        return dx, None, None, None


def _finite(top: Tensor) -> Tensor:
    """Where no row counts (none is there, or minus infinity alone), s is zero for any m: the least number then."""
    return top.clamp(min=torch.finfo(top.dtype).min)


def _combined(top: Tensor, total: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
    """(m, s) over all ranks of the axis."""
    tops, totals = gathered(torch.stack([top, total]), axis).unbind(1)
    highest = tops.amax(0)
    return highest, (totals * torch.exp(tops - highest)).sum(0)
