"""A decision on ranks that are not alike: which of them do the same, and what each takes and holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from autopar.codegen.memory_footprint import Footprint, footprint
from autopar.codegen.steps import LoweredProgram
from autopar.costmodel.local_shapes import parts_of
from autopar.costmodel.rank_views import RankView, views
from autopar.ir.grid import GridShape
from autopar.ir.layout import Shard
from autopar.ir.plan import NodePlan, RankPlan
from autopar.partitioner.formulation.priced_problem import Decision, PricedProblem

Rows = tuple[tuple[int, ...], ...]
"""The rows that each axis cuts, in order."""


def kinds_of(built: PricedProblem, decision: Decision) -> tuple[RankView, ...]:
    """The ranks of a decision in groups that have equally many rows of everything; none where all ranks are alike."""
    return views(built.machine, built.grid, cut_rows(built, decision)) if views(built.machine, built.grid) else ()


def cut_rows(built: PricedProblem, decision: Decision) -> Rows:
    """The rows that the axes cut; an axis that cuts what others have left, those of every part of theirs."""
    grid = built.grid
    rows: list[set[int]] = [set() for _ in grid.sizes]
    for axes, extent in set(_factors(built, decision)):
        for i, axis in enumerate(axes):
            rows[axis] |= parts_left(axes[:i], extent, grid)
    return tuple(tuple(sorted(own)) for own in rows)


def parts_left(axes: Sequence[int], extent: int, grid: GridShape) -> set[int]:
    """The sizes of the parts into which axes, one after another, cut so many rows."""
    left = {extent}
    for axis in axes:
        left = {part for rows in left for part in parts_of(rows, axis, grid)}
    return left


def _factors(built: PricedProblem, decision: Decision) -> Iterator[tuple[tuple[int, ...], int]]:
    """Whatever is cut: the axes that cut it, and its rows."""
    for name, strategy in decision.strategies.items():
        extents = built.calls[name].rule.extents
        readings: dict[tuple[str, int, int], list[int]] = {}
        for axis, choice in enumerate(strategy):
            if choice.mode == "split":
                readings.setdefault((choice.letter, choice.blocks, choice.unit), []).append(axis)
        yield from ((tuple(axes), extents[key[0]] // (key[1] * key[2])) for key, axes in readings.items())
    for name, layouts in decision.storage.items():
        shape = built.graph.values[name].shape
        cut: dict[Shard, list[int]] = {}
        for axis, layout in enumerate(layouts):
            if isinstance(layout, Shard):
                cut.setdefault(layout, []).append(axis)
        yield from ((tuple(axes), shape[one.dim] // (one.blocks * one.unit)) for one, axes in cut.items())


def by_rank(kinds: Sequence[RankView], values: Sequence[float]) -> tuple[float, ...]:
    """A number of every kind of ranks as one of every rank."""
    numbers = {rank: value for kind, value in zip(kinds, values, strict=True) for rank in kind.ranks}
    return tuple(numbers[rank] for rank in sorted(numbers))


def shares(kinds: Sequence[RankView], seconds: Sequence[float]) -> tuple[float, ...]:
    """Of the most seconds that a kind takes, the share that each rank takes; empty where all take as long."""
    most = max(seconds, default=0.0)
    if all(one == most for one in seconds):
        return ()
    return tuple(round(one / most, 6) for one in by_rank(kinds, seconds))


def footprints(
    built: PricedProblem, decision: Decision, program: LoweredProgram, optimizer: str, kinds: Sequence[RankView]
) -> list[Footprint]:
    """What a rank of every kind holds; where all are alike, what any does."""
    grids = [kind.grid for kind in kinds] or [built.grid]
    return [footprint(replace(built, grid=grid), decision, program, optimizer) for grid in grids]


def rank_plans(
    built: PricedProblem,
    kinds: Sequence[RankView],
    nodes: Sequence[NodePlan],
    updates: Sequence[float],
    held: Sequence[Footprint],
) -> tuple[RankPlan, ...]:
    """What every rank takes and holds; `updates` are the seconds of every kind's update."""
    if not kinds:
        return ()
    compute = [0.0] * built.grid.size
    for node in nodes:
        for rank in range(len(compute)):
            compute[rank] += node.seconds * (node.ranks[rank] if node.ranks else 1.0)
    speeds, parts = by_rank(kinds, [kind.speed for kind in kinds]), shares(kinds, updates)
    update = [max(updates) * part for part in parts or (1.0,) * len(compute)]
    peaks = by_rank(kinds, [one.peak for one in held])
    memories = built.memories or (0.0,) * built.grid.size
    columns = zip(speeds, compute, update, memories, map(int, peaks), strict=True)
    return tuple(RankPlan(*column) for column in columns)
