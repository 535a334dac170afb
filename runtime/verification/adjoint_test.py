"""The adjoint test of a linear map between distributed tensors: ``|<Fx, y> - <x, F*y>| <= 1e-12 max(|Fx||y|, |x||F*y|)``.

What ``<a, b>`` means follows from the layouts. Let a tensor in layout L stand for the whole tensor A; its gradient lies in
dual(L) and stands for the whole gradient B. The inner product is that of the whole tensors, ``<a, b> = (A, B)``. In terms
of what the ranks hold, a_i and b_i on rank i of the axis:

    Replicate  a_i = A,  b_i = B              (A, B) = (a_0, b_0)          one vector, held alike by all: counted once
    Shard      a_i = P_i A,  b_i = P_i B      (A, B) = sum_i (a_i, b_i)    the P_i cut A into disjoint parts
    Partial    A = sum_i a_i,  b_i = B        (A, B) = sum_i (a_i, b_i)    each addend meets the one gradient
    Copied     a_i = A,  B = sum_i b_i        (A, B) = sum_i (a_i, b_i)    the one tensor meets each addend

So the product is a sum over the ranks, in which a replicated axis counts once. A conversion F: L -> M changes the layout and
keeps the whole tensor. With x in L for X, and y in dual(M) for Y, ``<Fx, y> = (X, Y)`` is taken in M. Where F*y in dual(L)
stands for Y again, ``<x, F*y> = (X, Y)`` is taken in L: the adjoint of L -> M is the conversion dual(M) -> dual(L), and for
each of the thirteen cells the two sides read

    from Replicate to Shard, Partial or Copied        sum_i (Fx_i, y_i) = (x_0, F*y_0)
    from Shard, Partial or Copied to Replicate          (Fx_0, y_0)     = sum_i (x_i, F*y_i)
    between Shard, Partial and Copied                 sum_i (Fx_i, y_i) = sum_i (x_i, F*y_i)

Two numbers that agree are not enough: a replicated or copied result has to be one vector, that is, the same to the bit on
all ranks, or else rank 0's part alone would have been looked at. Windows (halo exchange, convolution) map Shard to Shard
and are no conversions, but the products are the same. Over several axes the product counts the ranks that are first on
every replicated one; a conversion acts over one axis, and so is tested by the ranks of that axis alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from autopar.ir.layout import Copied, Layout, Replicate, dual
from autopar.runtime.transport.base import Comm

TOLERANCE = 1e-12
Pullback = Callable[[Tensor], Tensor]
LinearMap = Callable[[Tensor], tuple[Tensor, Pullback]]  # x -> Fx, and the map y -> F*y


def conversion_error(
    function: Callable[[Tensor], Tensor],
    source: Layout,
    target: Layout,
    shape: Sequence[int],
    comm: Comm,
    seed: int = 0,
) -> float:
    """The relative gap of the adjoint test of a linear `function`, whose adjoint is what autograd takes for it.

    `function` maps the local tensor of a tensor in layout `source` over the ranks of `comm` to that of one in `target`; `shape`
    is the local tensor's on this rank. The vectors are random, in float64. Infinite where a result that all ranks should hold
    alike differs between them. Collective; the same number on every rank.
    """
    return operator_error(differentiated(function), source, target, shape, comm, seed)


def operator_error(
    operator: LinearMap, source: Layout, target: Layout, shape: Sequence[int], comm: Comm, seed: int = 0
) -> float:
    """`conversion_error` for a linear map that brings its adjoint along."""
    x = vector(source, shape, comm.rank, 2 * seed)
    image, pull = operator(x)
    y = vector(dual(target), image.shape, comm.rank, 2 * seed + 1)
    back = pull(y)
    assert back.shape == x.shape, f"the adjoint maps to {tuple(back.shape)}, not to {tuple(x.shape)}"
    here = [*products(image, y, target, comm.rank), *products(x, back, source, comm.rank)]
    alike = [_digest(image, target), _digest(back, dual(source))]
    every: list[Any] = comm.gather_objects([here, alike])  # not by a sum, which may be what is tested
    if any(digests != alike for _, digests in every):
        return math.inf
    left, image2, y2, right, x2, back2 = (math.fsum(column) for column in zip(*(row for row, _ in every), strict=True))
    return relative(left - right, math.sqrt(image2 * y2), math.sqrt(x2 * back2))


def relative(gap: float, *scales: float) -> float:
    """A gap in terms of the largest scale; 0 where there is nothing to compare, infinite for a gap that is not a number."""
    if gap == 0:
        return 0.0
    share = abs(gap) / scale if (scale := max(scales)) else math.inf
    return math.inf if math.isnan(share) else share


def differentiated(function: Callable[[Tensor], Tensor]) -> LinearMap:
    """A linear function with the adjoint that autograd takes for it."""

    def operator(x: Tensor) -> tuple[Tensor, Pullback]:
        with torch.enable_grad():
            y = function(x.requires_grad_())
        return y.detach(), lambda grad: torch.autograd.grad(y, x, grad)[0]

    return operator


def vector(layout: Layout, shape: Sequence[int], rank: int, seed: int) -> Tensor:
    """This rank's part of a random tensor in `layout`: the same on all ranks where all hold one vector."""
    alike = isinstance(layout, Replicate | Copied)
    generator = torch.Generator().manual_seed(seed * 65537 + (0 if alike else rank + 1))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def products(a: Tensor, b: Tensor, layout: Layout, rank: int) -> tuple[float, float, float]:
    """What this rank adds to ``<a, b>``, ``|a|^2`` and ``|b|^2``."""
    if isinstance(layout, Replicate) and rank:
        return 0.0, 0.0, 0.0
    a, b = a.detach().reshape(-1), b.detach().reshape(-1)
    return float(a @ b), float(a @ a), float(b @ b)


def _digest(tensor: Tensor, layout: Layout) -> str:
    """A fingerprint, to the bit, of what all ranks should hold alike; the empty word where nothing need be alike."""
    if not isinstance(layout, Replicate | Copied):
        return ""
    return hashlib.blake2b(tensor.detach().contiguous().numpy().data, digest_size=16).hexdigest()


def kind(layout: Layout) -> str:
    """What a layout is called in tables.

    >>> kind(Replicate())
    'replicate'
    """
    return type(layout).__name__.lower()
