"""Rows read and written by index where the rows that the index counts are split over an axis.

Rank r holds the rows L_r = [low, high) of a dim of n rows. For an index i that every rank has:

    read     x[i] = sum over ranks of [i in L_r] x_r[i - low]        each rank's addend has zeros for foreign rows
    write    y_r[i - low] = source[i]   where i in L_r               what belongs to other ranks falls into a spare row

Nothing is sent here: what is read is Partial, what is written is Shard, and the adjoints are torch's own: the gradient
of a foreign row is zero. A rank without rows reads zeros that still depend on its part, so that backward, and with it
the communication before, is entered by every rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autopar.runtime.grid.grid import Axis

Over = tuple[Axis, int]  # the axis that splits the rows, and how many there are on all its ranks


def _own(index: Tensor, over: Over) -> tuple[Tensor, Tensor]:
    """The place of each index in this rank's part, and whether it lies there; an index below 0 counts from the end."""
    axis, extent = over
    place = torch.where(index < 0, index + extent, index) - axis.start(extent)
    return place, (place >= 0) & (place < axis.part(extent))


def _with_spare_row(x: Tensor, dim: int, index: Tensor, over: Over) -> tuple[Tensor, Tensor, Tensor]:
    """`x` with a row of zeros more, the places to write to, that row for what belongs to others, and which are here."""
    place, mine = _own(index, over)
    roomy = torch.cat([x, x.new_zeros((*x.shape[:dim], 1, *x.shape[dim + 1 :]))], dim)
    return roomy, place.where(mine, x.shape[dim]), mine


def lookup(x: Tensor, dim: int, index: Tensor, over: Over | None = None) -> Tensor:
    """The rows `index` of `dim`, whose dims take its place: ``x[:, index]`` for dim 1. With `over` this rank's addend."""
    if over is None:
        return x.index_select(dim, index.reshape(-1)).view(*x.shape[:dim], *index.shape, *x.shape[dim + 1 :])
    place, mine = _own(index, over)
    shape = (*x.shape[:dim], *index.shape, *x.shape[dim + 1 :])
    if not x.shape[dim]:
        return x.new_zeros(shape) + x.sum()
    rows = x.index_select(dim, place.where(mine, 0).reshape(-1)).reshape(shape)
    return rows.masked_fill(~mine.reshape(*mine.shape, *[1] * (x.dim() - dim - 1)), 0)


def lookup_along(x: Tensor, dim: int, index: Tensor, over: Over | None = None) -> Tensor:
    """``x.gather(dim, index)``. With `over` this rank's addend."""
    if over is None:
        return x.gather(dim, index)
    place, mine = _own(index, over)
    if not x.shape[dim]:
        return x.new_zeros(index.shape) + x.sum()
    return x.gather(dim, place.where(mine, 0)).masked_fill(~mine, 0)


def scatter_along(
    x: Tensor,
    dim: int,
    index: Tensor,
    source: Tensor | float,
    reduce: str | None = None,
    include_self: bool = True,
    over: Over | None = None,
) -> Tensor:
    """``x.scatter(dim, index, source)``, or ``x.scatter_reduce`` with `reduce`, on this rank's rows of `dim`."""
    if over is None:
        return _scattered(x, dim, index, source, reduce, include_self)
    roomy, place, mine = _with_spare_row(x, dim, index, over)
    if isinstance(source, Tensor) and reduce in ("prod", "amax", "amin"):
        # what goes to others, NaN say, has no gradient here
        source = source[tuple(map(slice, index.shape))].masked_fill(~mine, 0)
    return _scattered(roomy, dim, place, source, reduce, include_self).narrow(dim, 0, x.shape[dim])


def _scattered(
    x: Tensor, dim: int, index: Tensor, source: Tensor | float, reduce: str | None, include_self: bool
) -> Tensor:
    if reduce is None:
        written: Tensor = x.scatter(dim, index, source)
        return written
    if not isinstance(source, Tensor) or reduce in ("add", "multiply"):
        reduced: Tensor = x.scatter(dim, index, source, reduce=reduce)
        return reduced
    return x.scatter_reduce(dim, index, source, reduce, include_self=include_self)


def update_rows(
    x: Tensor,
    dim: int,
    index: Tensor,
    source: Tensor | float,
    verb: str = "index_add",
    alpha: float = 1,
    over: Over | None = None,
) -> Tensor:
    """``x.index_add(dim, index, source)`` on this rank's rows of `dim`; `verb` may be index_copy or index_fill."""
    roomy = x
    if over is not None:
        roomy, index, _ = _with_spare_row(x, dim, index, over)
    if verb == "index_add":
        assert isinstance(source, Tensor)
        return roomy.index_add(dim, index, source, alpha=alpha).narrow(dim, 0, x.shape[dim])
    updated: Tensor = getattr(roomy, verb)(dim, index, source)
    return updated.narrow(dim, 0, x.shape[dim])
