"""Rows of a split dim in other places: slices, rolled and reversed rows, joined tensors, one row for all.

Every rank's part of the result consists of rows of the operand that lie somewhere on the axis; which, is known
without asking. They are fetched from their owners in one exchange (`autopar.runtime.primitives.halo`), whose adjoint
brings the gradients back:

    slice    result row j is row start + j step
    roll     result row j is row j - shift, counted around
    flip     result row j is row n - 1 - j
    unfold   result row j is the rows j step to j step + size, in a dim of their own
    cat      result row j is row j - offset of the operand that it falls into
    select   the rank that has the row keeps it, zeros stand on the others: an addend; nothing is sent
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autopar.runtime.grid.grid import Axis
from autopar.runtime.primitives.halo import halo
from autopar.runtime.windowed.receptive_field import StridedWindow, shown

Over = tuple[Axis, int]  # the axis that splits a dim, and its extent on all ranks
_NOTHING = (0, 0)


def slice_rows(x: Tensor, dim: int, start: int, stop: int, step: int, over: Over) -> Tensor:
    """This rank's part of ``x[start:stop:step]`` along `dim`; the bounds count from the front of the whole dim."""
    y = _windows(x, dim, over, StridedWindow(1, step, -start), len(range(start, stop, step)))
    return y if step == 1 else y[(slice(None),) * dim + (slice(None, None, step),)]


def select_row(x: Tensor, dim: int, index: int, over: Over) -> Tensor:
    """This rank's addend of ``x.select(dim, index)``: the row where it lies here, zeros where it does not."""
    axis, extent = over
    place = index % extent - axis.start(extent)
    if 0 <= place < x.shape[dim]:
        return x.select(dim, place)
    return x.new_zeros((*x.shape[:dim], *x.shape[dim + 1 :])) + x.narrow(dim, 0, 0).sum()


def roll(x: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int], over: Mapping[int, Over]) -> Tensor:
    """This rank's part of ``x.roll(shifts, dims)``; `over` names the split ones of these dims."""
    moves = zip(_several(shifts), _several(dims), strict=True)
    for shift, dim in moves:
        if dim not in over:
            x = x.roll(shift, dim)
            continue
        axis, extent = over[dim]
        parts = itertools.pairwise(axis.bounds(extent))
        x = halo(x, dim, axis, extent, [shown((a - shift, b - shift), extent, "circular") for a, b in parts])
    return x


def flip(x: Tensor, dims: Sequence[int], over: Mapping[int, Over]) -> Tensor:
    """This rank's part of ``x.flip(dims)``; `over` names the split ones of these dims."""
    for dim in set(dims) & set(over):
        axis, extent = over[dim]
        windows = [(extent - b, extent - a) for a, b in itertools.pairwise(axis.bounds(extent))]
        x = halo(x, dim, axis, extent, windows)
    return x.flip(list(dims))


def cat(tensors: Sequence[Tensor], dim: int, axis: Axis, extents: Sequence[int]) -> Tensor:
    """This rank's part of ``torch.cat(tensors, dim)``, where `axis` splits `dim` of all of them and of the result.

    `extents` are those of the whole tensors.
    """
    bounds = list(itertools.pairwise(axis.bounds(sum(extents))))
    parts, offset = [], 0
    for x, extent in zip(tensors, extents, strict=True):
        windows = [(max(a - offset, 0), min(b - offset, extent)) for a, b in bounds]
        parts.append(halo(x, dim, axis, extent, [rows if rows[0] < rows[1] else _NOTHING for rows in windows]))
        offset += extent
    return torch.cat(parts, dim)


def unfold(x: Tensor, dim: int, size: int, step: int, over: Over) -> Tensor:
    """This rank's part of ``x.unfold(dim, size, step)``."""
    window = StridedWindow(size, step)
    y = _windows(x, dim, over, window, window.extent(over[1]))
    if y.shape[dim]:
        return y.unfold(dim, size, step)
    return y.unsqueeze(-1).expand(*y.shape, size)


def _windows(x: Tensor, dim: int, over: Over, window: StridedWindow, results: int) -> Tensor:
    """The rows of `dim` that this rank's part of so many result rows reads."""
    axis, extent = over
    parts = itertools.pairwise(axis.bounds(results))
    return halo(x, dim, axis, extent, [window.reads(extent, (a, b)) if a < b else _NOTHING for a, b in parts])


def _several(numbers: int | Sequence[int]) -> tuple[int, ...]:
    return (numbers,) if isinstance(numbers, int) else tuple(numbers)
