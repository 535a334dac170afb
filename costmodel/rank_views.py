"""Ranks that are not alike: what each of them sees of the grid, and how fast it is.

Where axes are cut unevenly, or ranks differ in speed, a call takes as long as on the rank that is last with it,

    max over ranks r of  seconds(local shapes of r) / speed(r)

Ranks of one speed whose parts are equally large are alike, and one stands for all. With prices, for which a row more or less does
not matter, those are alike whose shares of every axis are equal; a plan that is carried out is looked at row by row.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from autopar.costmodel.local_shapes import axis_part
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine

_SHARE_DIGITS = 9
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class RankView:
    """The grid as the first of some ranks that are alike sees it, their speed, and which they are."""

    grid: GridShape
    speed: float
    ranks: tuple[int, ...]


def alike(machine: Machine, grid: GridShape) -> bool:
    """Whether all ranks of a grid are alike, so that the largest shard says all; replicas of a queue count as such."""
    if grid.queue is not None:
        return True
    unlike = machine.ranks and any(machine.class_of(rank).differs for rank in range(grid.size))
    return not grid.cuts and not unlike


@functools.lru_cache(maxsize=1024)
def rounds(machine: Machine, grid: GridShape, microbatches: int) -> int:
    """For how many micro-batches a step lasts, each as long as it takes a rank of the profile's speed.

    Without a queue, all of them. The replicas of a queue draw them, whoever is free the next, each as fast as its slowest rank.
    """
    if grid.queue is None:
        return microbatches
    size, speeds = grid.size // grid.replicas, machine.speeds(grid.size)
    takes = [1.0 / min(speeds[replica * size : (replica + 1) * size]) for replica in range(grid.replicas)]
    free = [(0.0, replica) for replica in range(grid.replicas)]
    for _ in range(microbatches):
        at, replica = heapq.heappop(free)
        heapq.heappush(free, (at + takes[replica], replica))
    return math.ceil(max(free)[0] - _ROUNDING)


@functools.lru_cache(maxsize=1024)
def views(machine: Machine, grid: GridShape, extents: tuple[tuple[int, ...], ...] = ()) -> tuple[RankView, ...]:
    """The kinds of ranks that there are; none where all are alike, or the grid is seen from one of them.

    `extents` are the rows that each axis cuts, where every row counts.
    """
    if grid.at is not None or alike(machine, grid):
        return ()
    kinds: dict[tuple[object, ...], list[int]] = {}
    for rank, speed in enumerate(machine.speeds(grid.size)):
        seen = grid.seen_from(rank)
        parts = _rows(seen, extents) if extents else _shares(seen)
        kinds.setdefault((speed, machine.class_of(rank).memory_bytes, parts), []).append(rank)
    return tuple(RankView(grid.seen_from(ranks[0]), key[0], tuple(ranks)) for key, ranks in kinds.items())  # type: ignore[arg-type]


def _rows(seen: GridShape, extents: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(axis_part(extent, axis, seen) for extent in own) for axis, own in enumerate(extents))


def _shares(seen: GridShape) -> tuple[float, ...]:
    """The share of every axis that a rank has, 0 for balanced ones, on which the first ranks have the largest parts."""
    assert seen.at is not None
    shares = []
    for axis, at in enumerate(seen.at):
        parts = [high - low for low, high in pairwise(seen.cuts_of(axis))]
        shares.append(round(parts[at], _SHARE_DIGITS) if parts else 0.0)
    return tuple(shares)
