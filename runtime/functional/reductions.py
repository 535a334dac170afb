"""Reductions over dims that are split over axes, with the same result on every rank: variance, norms, extremes.

With N the number of rows on all ranks and S the sum over all ranks:

    mean      m = c + S (x - c) / N                     c = S x / N; of rows that are all alike m is one to the bit
    var       v = S (x - m)^2 / (N - k)                 dx = 2 dv (x - m) / (N - k)
    std       s = v^(1/2)                               dx = ds (x - m) / (N - k) / s           0 where s is 0
    norm      y = (S |x|^p)^(1/p)                       dx = dy sgn(x) (|x| / y)^(p - 1)        0 where y is 0
              the largest |x| for p = infinity          to the rows that have it, in equal shares
    logsumexp y = M + log S exp(x - M)                  dx = dy exp(x - y)                      M the largest x
    extreme   the largest (smallest) of the ranks' own  to the rows that have it, in equal shares

The gradient of a result is the same on every rank, and a rank finds that of its own rows without a message. What these are at
zeros, infinities and NaN is what torch's own operators say (`autopar.proof.limits`). A rank without rows adds nothing to a
sum; what stands for it among extremes is below (above) every number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.functional.across_ranks import gathered, summed
from autopar.runtime.grid.grid import Axis
from autopar.runtime.primitives.autograd import Context, apply

Dims = int | tuple[int, ...]
Axes = tuple[Axis, ...]
Over = tuple[Axis, int]  # an axis, and the rows of the dim that it splits
Back = Callable[[Tensor, Tensor, Tensor], Tensor]  # the gradient of x, from that of y, x and y


def var(x: Tensor, dim: Dims, correction: float = 1, keepdim: bool = False, over: Axes = ()) -> Tensor:
    """``x.var(dim, correction=..., keepdim=...)`` where the axes `over` split some of these dims."""
    with torch.no_grad():
        mean, squares, count = _moments(x, dim, over)
    factor = _ratio(2, count - correction)
    return _result(x, squares / max(count - correction, 0), dim, keepdim, lambda grad, x, y: factor * grad * (x - mean))


def std(x: Tensor, dim: Dims, correction: float = 1, keepdim: bool = False, over: Axes = ()) -> Tensor:
    """``x.std(dim, correction=..., keepdim=...)`` where the axes `over` split some of these dims."""
    with torch.no_grad():
        mean, squares, count = _moments(x, dim, over)
    factor = _ratio(2, count - correction)

    def back(grad: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return factor * (grad / (2 * y)).masked_fill(y == 0, 0) * (x - mean)

    return _result(x, (squares / max(count - correction, 0)).sqrt(), dim, keepdim, back)


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.inf


def _moments(x: Tensor, dim: Dims, over: Axes) -> tuple[Tensor, Tensor, float]:
    """Mean and sum of squared deviations of all ranks' rows, with the dims kept, and their number. One all-gather per axis."""
    dims = _every(x, dim)
    total = float(math.prod(x.shape[i] for i in dims))
    mean = x.new_zeros(_kept(x, dims))
    if total and x.numel():
        mean = _refined(lambda less: (x - less).mean(dims, keepdim=True), mean)
    squares = _square(x - mean).sum(dims, keepdim=True)
    for axis in over:
        mine = torch.stack([torch.full_like(mean, total), mean, squares.to(mean.dtype)])
        counts, means, every = gathered(mine, axis).unbind(1)
        total = float(counts.real.reshape(axis.size, -1)[:, 0].sum()) if mean.numel() else total
        share = counts / max(total, 1)
        mean = _refined(lambda less: (share * (means - less)).sum(0), torch.zeros_like(mean))  # noqa: B023
        apart = torch.where(counts == 0, 0, means - mean)
        squares = (every.real if x.is_complex() else every).sum(0) + (counts.real * _square(apart)).sum(0)
    return mean, squares, total


def _refined(mean_of_rest: Callable[[Tensor], Tensor], zero: Tensor) -> Tensor:
    """A mean, and to it the mean of what is left: where all numbers are one, it is that number to the bit."""
    near = mean_of_rest(zero)
    return torch.where(near.isfinite(), near + mean_of_rest(near), near)


def _square(x: Tensor) -> Tensor:
    return x.real.square() + x.imag.square() if x.is_complex() else x.square()


def norm(x: Tensor, ord: float = 2, dim: Dims = (), keepdim: bool = False, over: Axes = ()) -> Tensor:
    """``torch.linalg.vector_norm(x, ord, dim, keepdim)`` where the axes `over` split some of these dims."""
    if math.isinf(ord):
        return _norm_of_extreme(x, ord > 0, dim, keepdim, over)
    with torch.no_grad():
        dims = _every(x, dim)
        powers = _square(x) if ord == 2 else (x != 0).to(x.abs().dtype) if ord == 0 else x.abs().pow(ord)
        y = summed(powers.sum(dims, keepdim=True), over)
        y = y.sqrt() if ord == 2 else y if ord == 0 else y.pow(1 / ord)
    return _result(x, y, dim, keepdim, lambda grad, x, y: _norm_back(grad, x, y, ord))


def _norm_back(grad: Tensor, x: Tensor, y: Tensor, p: float) -> Tensor:
    """Torch's gradient of a norm, with its values where |x| or y is zero."""
    if p == 0:
        return torch.zeros_like(x)
    if p == 1:
        return x.sgn() * grad
    if p == 2:
        return grad * (x / y).masked_fill(y == 0, 0)
    if p < 1:
        return x.sgn() * x.abs().pow(p - 1).masked_fill(x == 0, 0) * grad * y.pow(1 - p)
    scaled = x.sgn() * x.abs().pow(p - 1) if p < 2 else x * x.abs().pow(p - 2)
    return scaled * (grad / y.pow(p - 1)).masked_fill(y == 0, 0)


def _norm_of_extreme(x: Tensor, most: bool, dim: Dims, keepdim: bool, over: Axes) -> Tensor:
    """The largest or smallest |x|; its gradient goes to the rows that have it, or are no numbers, in equal shares."""
    with torch.no_grad():
        size = x.abs()
        y = _extreme(size, dim, over, most)
        held = (size == y) | size.isnan()
        count = summed(held.sum(_every(x, dim), keepdim=True).to(size.dtype), over)
    return _result(x, y, dim, keepdim, lambda grad, x, y: x.sgn() * ((grad / count) * held))


def logsumexp(x: Tensor, dim: Dims, keepdim: bool = False, over: Axes = ()) -> Tensor:
    """``x.logsumexp(dim, keepdim)`` where the axes `over` split some of these dims."""
    with torch.no_grad():
        most = _extreme(x, dim, over, True)
        most = most.masked_fill(most.isinf(), 0)
        y = summed((x - most).exp().sum(_every(x, dim), keepdim=True), over).log() + most
    return _result(x, y, dim, keepdim, lambda grad, x, y: grad * (x - y).exp())


def amax(x: Tensor, dim: Dims, keepdim: bool = False, over: Axes = ()) -> Tensor:
    """``x.amax(dim, keepdim)`` where the axes `over` split some of these dims."""
    return _extreme_shared(x, dim, keepdim, over, True)


def amin(x: Tensor, dim: Dims, keepdim: bool = False, over: Axes = ()) -> Tensor:
    """``x.amin(dim, keepdim)`` where the axes `over` split some of these dims."""
    return _extreme_shared(x, dim, keepdim, over, False)


def _extreme_shared(x: Tensor, dim: Dims, keepdim: bool, over: Axes, most: bool) -> Tensor:
    with torch.no_grad():
        y = _extreme(x, dim, over, most)
        held = x == y
        share = held / summed(held.sum(_every(x, dim), keepdim=True).to(x.dtype), over)
    return _result(x, y, dim, keepdim, lambda grad, x, y: grad * share)


def largest_of_all(x: Tensor, over: Axes = ()) -> Tensor:
    """``x.max()`` where the axes `over` split some of its dims."""
    return _extreme_of_all(x, over, True)


def smallest_of_all(x: Tensor, over: Axes = ()) -> Tensor:
    """``x.min()`` where the axes `over` split some of its dims."""
    return _extreme_of_all(x, over, False)


def _extreme_of_all(x: Tensor, over: Axes, most: bool) -> Tensor:
    """As `amax`, but that of NaN the gradient goes to what is NaN."""
    with torch.no_grad():
        y = _extreme(x, (), over, most)
        held = (x == y) | (x.isnan() & y.isnan())
        count = summed(held.sum((), keepdim=True).to(x.dtype), over)
    return _result(x, y, (), False, lambda grad, x, y: torch.where(held, grad / count, 0))


def _result(x: Tensor, y: Tensor, dim: Dims, keepdim: bool, back: Back) -> Tensor:
    """y, found from x with the dims kept, with its gradient."""
    result: Tensor = apply(_Reduced, x, y, back)
    return result if keepdim else result.squeeze(_every(x, dim))


class _Reduced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, y: Tensor, back: Back) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.arguments = back
        return y.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.arguments(grad, *ctx.saved_tensors), None, None


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
        every, bounds = gathered(own, axis), axis.bounds(extent)
        filled = torch.tensor([rank for rank in range(axis.size) if bounds[rank] < bounds[rank + 1]])
        first = filled[(every[filled].max(0) if most else every[filled].min(0)).indices]
        y = every.gather(0, first.unsqueeze(0)).squeeze(0)
        at = _first(x, dim, y) if x.shape[dim] else torch.zeros_like(first)
        mine = first == axis.index
        place = (at + axis.start(extent)).where(mine, 0)
        axis.comm.all_reduce(place)
        rows = torch.arange(x.shape[dim], device=x.device).view(-1, *[1] * (x.dim() - 1 - dim % x.dim()))
        share = ((rows == at) & mine).to(x.dtype)
    y = _result(x, y, dim, True, lambda grad, x, y: grad * share)
    return (y, place) if keepdim else (y.squeeze(dim), place.squeeze(dim))


def _first(x: Tensor, dim: int, y: Tensor) -> Tensor:
    """The first row along `dim` where x is y, a NaN being a NaN."""
    held = (x == y) | (x.isnan() & y.isnan()) if x.is_floating_point() else x == y
    return held.to(torch.uint8).argmax(dim, keepdim=True)


def _extreme(x: Tensor, dim: Dims, over: Axes, largest: bool) -> Tensor:
    """The extreme of all ranks, with the dims kept."""
    own = _own_extreme(x, dim, largest)
    for axis in over:
        every = gathered(own, axis)
        own = every.amax(0) if largest else every.amin(0)
    return own


def _own_extreme(x: Tensor, dim: Dims, largest: bool) -> Tensor:
    dims = _every(x, dim)
    if all(x.shape[i] for i in dims):
        return x.amax(dims, keepdim=True) if largest else x.amin(dims, keepdim=True)
    shape = _kept(x, dims)
    if x.dtype.is_floating_point:
        return x.new_full(shape, -math.inf if largest else math.inf)
    if x.dtype is torch.bool:
        return x.new_full(shape, not largest)
    limits = torch.iinfo(x.dtype)
    return x.new_full(shape, limits.min if largest else limits.max)


def _every(x: Tensor, dim: Dims) -> tuple[int, ...]:
    """The dims counted from the front; () are all."""
    dims = dim if isinstance(dim, tuple) else (dim,)
    return tuple(i % max(x.dim(), 1) for i in dims) or tuple(range(x.dim()))


def _kept(x: Tensor, dims: tuple[int, ...]) -> list[int]:
    return [1 if i in dims else n for i, n in enumerate(x.shape)]
