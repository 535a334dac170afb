"""Reductions over dims that are split over axes, with the same result on every rank: variance, norms, extremes.

With N the number of rows on all ranks and S the sum over all ranks (an all-reduce, whose adjoint is nothing):

    mean      m = S x / N
    var       S (x - m)^2 / (N - c)                     d var / d m = 0, so that m is a constant in backward
    norm      (S |x|^p)^(1/p), the largest |x| for p = infinity
    logsumexp M + log S exp(x - M)                      M the largest x, a constant in backward
    extreme   the largest (smallest) of the ranks' own; its gradient goes to the rows that have it, in equal shares

A rank without rows adds nothing to a sum; what stands for it among extremes is below (above) every number.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from autopar.runtime.grid import Axis
from autopar.runtime.primitives.all_sum import all_sum
from autopar.runtime.primitives.function import apply

Dims = int | tuple[int, ...]
Axes = tuple[Axis, ...]
Over = tuple[Axis, int]  # an axis, and the rows of the dim that it splits


def var(x: Tensor, dim: Dims, correction: float = 1, keepdim: bool = False, over: Axes = ()) -> Tensor:
    """``x.var(dim, correction=..., keepdim=...)`` where the axes `over` split some of these dims."""
    with torch.no_grad():
        sums = x.sum(dim, keepdim=True)
        total = torch.cat([sums.reshape(-1), sums.new_tensor([x.numel() // max(sums.numel(), 1)])])  # in one message
        for axis in over:
            axis.comm.all_reduce(total)
        count = float(total[-1].real)
        mean = (total[:-1] / count).view(sums.shape)
    difference = x - mean
    squares = difference.real.square() + difference.imag.square() if x.is_complex() else difference.square()
    return _total(squares.sum(dim, keepdim), over) / max(count - correction, 0)


def std(x: Tensor, dim: Dims, correction: float = 1, keepdim: bool = False, over: Axes = ()) -> Tensor:
    """``x.std(dim, correction=..., keepdim=...)`` where the axes `over` split some of these dims."""
    return var(x, dim, correction, keepdim, over).sqrt()


def norm(x: Tensor, ord: float = 2, dim: Dims = (), keepdim: bool = False, over: Axes = ()) -> Tensor:
    """``torch.linalg.vector_norm(x, ord, dim, keepdim)`` where the axes `over` split some of these dims."""
    if math.isinf(ord):
        return amax(x.abs(), dim, keepdim, over) if ord > 0 else amin(x.abs(), dim, keepdim, over)
    if ord == 2:
        squares = x.real.square() + x.imag.square() if x.is_complex() else x.square()
        return _total(squares.sum(dim, keepdim), over).sqrt()
    if ord == 0:
        return _total((x != 0).to(x.dtype).sum(dim, keepdim), over)
    return _total(x.abs().pow(ord).sum(dim, keepdim), over).pow(1 / ord)


def logsumexp(x: Tensor, dim: Dims, keepdim: bool = False, over: Axes = ()) -> Tensor:
    """``x.logsumexp(dim, keepdim)`` where the axes `over` split some of these dims."""
    with torch.no_grad():
        most = amax(x, dim, True, over)
        most = most.masked_fill(most.isinf(), 0)
    total = _total((x - most).exp().sum(dim, keepdim), over)
    return total.log() + (most if keepdim else most.squeeze(dim))


def amax(x: Tensor, dim: Dims, keepdim: bool = False, over: Axes = ()) -> Tensor:
    """``x.amax(dim, keepdim)`` where the axes `over` split some of these dims."""
    with torch.no_grad():
        y = _extreme(x, dim, over, largest=True)
        held = x == y
        share = held / _total(held.sum(dim, keepdim=True).to(x.dtype), over)
    y = apply(_Extreme, x, y, share)
    return y if keepdim else y.squeeze(dim)


def amin(x: Tensor, dim: Dims, keepdim: bool = False, over: Axes = ()) -> Tensor:
    """``x.amin(dim, keepdim)`` where the axes `over` split some of these dims."""
    return -amax(-x, dim, keepdim, over)


class _Context(FunctionCtx):
    saved_tensors: tuple[Tensor, ...]


class _Extreme(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, share: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(share)
        return y.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.saved_tensors[0], None, None


def largest(x: Tensor, dim: int, keepdim: bool = False, over: Over | None = None) -> tuple[Tensor, Tensor]:
    """``x.max(dim, keepdim)``: the largest of each row along the split `dim` and its place among all ranks' rows."""
    assert over is not None
    return _placed(x, dim, keepdim, over, True)


def smallest(x: Tensor, dim: int, keepdim: bool = False, over: Over | None = None) -> tuple[Tensor, Tensor]:
    """``x.min(dim, keepdim)`` where the axis of `over` splits `dim`."""
    assert over is not None
    return _placed(x, dim, keepdim, over, False)


def _placed(x: Tensor, dim: int, keepdim: bool, over: Over, most: bool) -> tuple[Tensor, Tensor]:
    """The first rank that has the extreme counts, and on it the first row, as torch does within one tensor."""
    axis, extent = over
    with torch.no_grad():
        own = _extreme(x, dim, (), most)
        every = _gathered(own, axis)
        first = (every.max(0) if most else every.min(0)).indices
        y = every.gather(0, first.unsqueeze(0)).squeeze(0)
        at = _first(x, dim, y) if x.shape[dim] else torch.zeros_like(first)
        mine = first == axis.index
        place = (at + axis.start(extent)).where(mine, 0)
        axis.comm.all_reduce(place)
        rows = torch.arange(x.shape[dim], device=x.device).view(-1, *[1] * (x.dim() - 1 - dim % x.dim()))
        share = ((rows == at) & mine).to(x.dtype)
    y = apply(_Extreme, x, y, share)
    return (y, place) if keepdim else (y.squeeze(dim), place.squeeze(dim))


def _first(x: Tensor, dim: int, y: Tensor) -> Tensor:
    """The first row along `dim` where x is y, a NaN being a NaN."""
    held = (x == y) | (x.isnan() & y.isnan()) if x.is_floating_point() else x == y
    return held.to(torch.uint8).argmax(dim, keepdim=True)


def _extreme(x: Tensor, dim: Dims, over: Axes, largest: bool) -> Tensor:
    """The extreme of all ranks, with the dims kept."""
    own = _own_extreme(x, dim, largest)
    for axis in over:
        every = _gathered(own, axis)
        own = every.amax(0) if largest else every.amin(0)
    return own


def _own_extreme(x: Tensor, dim: Dims, largest: bool) -> Tensor:
    dims = tuple(range(x.dim())) if dim == () else dim if isinstance(dim, tuple) else (dim,)
    if all(x.shape[one] for one in dims):
        return x.amax(dims, keepdim=True) if largest else x.amin(dims, keepdim=True)
    shape = [1 if i in [one % x.dim() for one in dims] else n for i, n in enumerate(x.shape)]
    if x.dtype.is_floating_point:
        return x.new_full(shape, -math.inf if largest else math.inf)
    limits = torch.iinfo(x.dtype)
    return x.new_full(shape, limits.min if largest else limits.max)


def _gathered(own: Tensor, axis: Axis) -> Tensor:
    """The tensors of all ranks of the axis, one after another along a new first dim."""
    every = own.new_empty(axis.size, *own.shape)
    axis.comm.all_gather(own.contiguous(), every)
    return every


def _total(x: Tensor, over: Axes) -> Tensor:
    for axis in over:
        x = all_sum(x, axis)
    return x
