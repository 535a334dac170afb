"""What every rank computes under given cuts, in the plan's seconds: pure functions of numbers that all ranks share.

A step consists of works. Each is some seconds, undivided, and the factors that are cut: a rank does the part of it that its
rows are of all rows, of every factor. With c_k what work k has turned out to take of what it was said to take,

    f_r(cuts) = sum_k c_k w_k s_kr(cuts),   s_kr = prod over the factors of work k of (rows of rank r) / extent

and a rank of speed v_r takes f_r / v_r seconds. Every row belongs to one rank along its axes, so that over all ranks of a
position f_r adds up to the same under any cuts. Hence no cuts are faster than sum_r f_r / sum_r v_r.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from autopar.ir.grid import ravel, unravel
from autopar.ir.layout import cut_bounds

AxisCuts = tuple[float, ...] | None
"""The fractions at which an axis is cut; None where its parts are balanced."""
GridCuts = tuple[AxisCuts, ...]
"""The cuts of every axis."""


@dataclass(frozen=True, slots=True)
class RankWork:
    """Compute that gets smaller by the same cuts.

    `factors` are the rows that are cut: the numbers of the axes that cut them, the outermost first, and how many rows there
    are. `seconds` are those of every position of the place axis, undivided; a grid without one has one position.
    """

    factors: tuple[tuple[tuple[int, ...], int], ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StepWork:
    """All works of a step on a grid whose axes have these sizes. Ranks are in row-major order, positions outermost."""

    sizes: tuple[int, ...]
    works: tuple[RankWork, ...]
    positions: int = 1

    @property
    def ranks(self) -> int:
        """How many ranks a position has."""
        return math.prod(self.sizes)


@functools.lru_cache(maxsize=1 << 14)
def parts_of(extent: int, size: int, cuts: AxisCuts) -> tuple[int, ...]:
    """The rows of each rank of an axis, of a dim of so many.

    >>> parts_of(12, 2, (0.0, 2 / 3, 1.0)), parts_of(5, 2, None)
    ((8, 4), (3, 2))
    """
    return tuple(high - low for low, high in itertools.pairwise(cut_bounds(extent, size, cuts or ())))


def fractions(size: int, cuts: AxisCuts) -> tuple[float, ...]:
    """The share of every rank of an axis, before it is rounded to rows."""
    return tuple(high - low for low, high in itertools.pairwise(cuts)) if cuts else (1 / size,) * size


@functools.lru_cache(maxsize=1 << 14)
def _factor_shares(extent: int, sizes: tuple[int, ...], cuts: GridCuts) -> tuple[float, ...]:
    """The shares of `extent` rows that the axes of these sizes cut one after another, row-major."""
    rows = [extent]
    for size, at in zip(sizes, cuts, strict=True):
        rows = [part for whole in rows for part in parts_of(whole, size, at)]
    return tuple(part / extent for part in rows)


@functools.lru_cache(maxsize=1 << 10)
def _places(sizes: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Where every rank of a position stands on some of the axes, row-major."""
    places = (unravel(rank, sizes) for rank in range(math.prod(sizes)))
    return tuple(ravel([at[axis] for axis in axes], [sizes[axis] for axis in axes]) for at in places)


def shares(step: StepWork, cuts: GridCuts) -> list[list[float]]:
    """What of every work each rank of a position does."""
    columns = []
    for work in step.works:
        column = [1.0] * step.ranks
        for axes, extent in work.factors:
            parts = _factor_shares(extent, tuple(step.sizes[a] for a in axes), tuple(cuts[a] for a in axes))
            column = [part * parts[at] for part, at in zip(column, _places(step.sizes, axes), strict=True)]
        columns.append(column)
    return columns


def loads(step: StepWork, corrections: Sequence[float], cuts: GridCuts) -> list[float]:
    """f_r of every rank.

    >>> step = StepWork((2,), (RankWork((((0,), 12),), (9.0,)), RankWork((), (1.0,))))
    >>> loads(step, (1.0, 2.0), ((0.0, 2 / 3, 1.0),))
    [8.0, 5.0]
    """
    found = [0.0] * (step.positions * step.ranks)
    for correction, work, parts in zip(corrections, step.works, shares(step, cuts), strict=True):
        for i in range(len(found)):
            found[i] += correction * work.seconds[i // step.ranks] * parts[i % step.ranks]
    return found


def least_seconds(step: StepWork, load: Sequence[float], speeds: Sequence[float]) -> float:
    """What no cuts can fall below: the work of a position over the speeds of its ranks, of the position that takes longest."""
    starts = range(0, len(load), step.ranks)
    return max(sum(load[i : i + step.ranks]) / sum(speeds[i : i + step.ranks]) for i in starts)
