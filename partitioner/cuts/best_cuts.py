"""The cuts of all axes together that let the slowest rank finish first: pure functions of numbers that all ranks share.

While the other axes stay, the seconds of a rank are affine in its share x of one axis, (a + b x) / v; a position of the axis
may take as much as its slowest rank can do by a time T. The least T at which the positions together can take everything is
found by bisection, as water fills a vessel; axes take turns until nothing improves. What comes out is a local optimum,
since a longest time is no smooth function; so this starts from several cuts.

Rows are whole. The cuts that are best as real numbers are improved by taking a few rows at a time from a rank that finishes
last, on one of its axes, until no such step helps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from autopar.ir.grid import unravel
from autopar.partitioner.cuts.rank_work import (
    AxisCuts,
    GridCuts,
    RankWork,
    StepWork,
    fractions,
    loads,
    parts_of,
)

_ROUNDS = 8  # of all axes
_HALVINGS = 24
_NO_BETTER = 1e-6  # relative
_STEPS = 8  # kinds of rows that are taken from a rank
_SPARED = 0.6  # of an even part
_TRIALS = 400  # of cuts, each time
_ROUND = 0.02  # what round cuts may be slower than the best by
_POLISHED = 3  # of the cuts that are best as real numbers


@dataclass(frozen=True, slots=True)
class CutTask:
    """What is to be balanced: works with their corrections, ranks with their speeds, and what cuts have to heed.

    `extents` are the rows that each axis cuts. A part of an extent that nobody lacks now may not become empty: this costs
    little where it is coarse, and an empty part may cost messages. `legal` says whether the program can be cut so.
    """

    step: StepWork
    corrections: tuple[float, ...]
    speeds: tuple[float, ...]
    extents: tuple[tuple[int, ...], ...]
    legal: Callable[[GridCuts], bool]


def seconds(task: CutTask, cuts: GridCuts) -> list[float]:
    """The compute seconds of every rank."""
    found = loads(task.step, task.corrections, cuts)
    return [load / speed for load, speed in zip(found, task.speeds, strict=True)]


def best_cuts(task: CutTask, current: GridCuts) -> GridCuts:
    """The best cuts found; the current ones if nothing is better."""
    needed = [
        tuple(n for n in extents if all(parts_of(n, size, at)))
        for extents, size, at in zip(task.extents, task.step.sizes, current, strict=True)
    ]
    starts = [current, *_starts(task)]
    levelled = dict.fromkeys(_levelled(task, needed, start, order) for start in starts for order in (1, -1))
    legal = [current, *(cuts for cuts in levelled if _allowed(task, needed, cuts))]
    first = sorted(legal, key=lambda cuts: _order(task, cuts))[:_POLISHED]
    return min((_polished(task, needed, cuts) for cuts in first), key=lambda cuts: _order(task, cuts))


def rounded_cuts(task: CutTask, cuts: GridCuts) -> GridCuts:
    """Rounder cuts than the best that take hardly longer: each axis at multiples of the largest 1/n that allows it.

    n divides the axis's smallest extent, and so nearly always all of them. Then every extent is cut alike, where rounding
    gives a rank more of one and less of another, for which ranks wait in every layer; and parts are multiples of what kernels
    like: of 64 channels 48 and 16 are fast, 44 and 20 are padded to 48 and 32. Works say neither.
    """
    limit = (1 + _ROUND) * max(seconds(task, cuts))
    for axis, (extents, at) in enumerate(zip(task.extents, cuts, strict=True)):
        least = min(extents, default=1)
        marks = at[1:-1] if at else ()
        for n in (n for n in range(2, least + 1) if marks and least % n == 0):
            one = (0.0, *(round(mark * n) / n for mark in marks), 1.0)
            other = (*cuts[:axis], one, *cuts[axis + 1 :])
            kept = all(high > low for low, high in itertools.pairwise(one))
            if kept and max(seconds(task, other)) <= limit and task.legal(other):
                cuts = other
                break
    return cuts


def _starts(task: CutTask) -> list[GridCuts]:
    """Cuts from which the best may be near: balanced ones, by speeds, and with one position of an axis spared."""
    balanced: GridCuts = (None,) * len(task.step.sizes)
    starts = [balanced, _by_speed(task, sum), _by_speed(task, min)]
    if sum(size > 1 for size in task.step.sizes) > 1:
        for axis, size in enumerate(task.step.sizes):
            for spared in range(size) if size > 1 else ():
                weights = [_SPARED if at == spared else 1.0 for at in range(size)]
                starts.append((*balanced[:axis], _in_proportion(weights), *balanced[axis + 1 :]))
    return starts


def _in_proportion(weights: Sequence[float]) -> AxisCuts:
    ends = list(itertools.accumulate(weights))
    return (0.0, *(end / ends[-1] for end in ends[:-1]), 1.0)


def _by_speed(task: CutTask, together: Callable[[list[float]], float]) -> GridCuts:
    """Each axis cut by the speeds of its positions, a position being as fast as its ranks together, or as its slowest."""
    cuts = []
    for axis, size in enumerate(task.step.sizes):
        ranks: list[list[float]] = [[] for _ in range(size)]
        for rank, speed in enumerate(task.speeds):
            ranks[unravel(rank % task.step.ranks, task.step.sizes)[axis]].append(speed)
        cuts.append(_in_proportion(list(map(together, ranks))))
    return tuple(cuts)


def _allowed(task: CutTask, needed: Sequence[Sequence[int]], cuts: GridCuts) -> bool:
    """Whether nobody goes without rows of what everybody has some of, and the program can be cut so."""
    kept = all(
        all(parts_of(extent, size, at))
        for extents, size, at in zip(needed, task.step.sizes, cuts, strict=True)
        for extent in extents
    )
    return kept and task.legal(cuts)


def _order(task: CutTask, cuts: GridCuts) -> list[float]:
    """Cuts with less of this are better: the longest time, of equal ones the next."""
    return [round(time, 12) for time in sorted(seconds(task, cuts), reverse=True)]


def _levelled(task: CutTask, needed: Sequence[Sequence[int]], start: GridCuts, order: int) -> GridCuts:
    """The cuts at which no axis alone improves, as real numbers; axes take turns in their order or the other way round."""
    cuts, last = list(start), float("inf")
    for _ in range(_ROUNDS):
        level = last
        for axis in range(len(cuts))[::order]:
            if task.step.sizes[axis] > 1:
                found = _level(task, tuple(cuts), axis, needed[axis])
                if found is not None:
                    cuts[axis], level = found
        if level > last * (1 - _NO_BETTER):
            break
        last = level
    return tuple(cuts)


def _level(task: CutTask, cuts: GridCuts, axis: int, needed: Sequence[int]) -> tuple[AxisCuts, float] | None:
    """The best cuts of one axis and the longest time with them; None where no work depends on it."""
    size = task.step.sizes[axis]
    lines = list(_lines(task, cuts, axis))
    if not any(slope for _, _, slope, _ in lines):
        return None
    least = _least(size, needed)
    low, high = max(fixed / speed for _, fixed, _, speed in lines), max((a + b) / v for _, a, b, v in lines)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        room = _room(lines, size, middle)
        low, high = (low, middle) if sum(room) >= 1 and _fits(room, least) else (middle, high)
    room = _room(lines, size, high)
    if not _fits(room, least):
        return None
    spare = sum(room) - sum(least)
    part = (1 - sum(least)) / spare if spare > 0 else 1.0
    ends = list(itertools.accumulate(low + (most - low) * part for low, most in zip(least, room, strict=True)))
    return (0.0, *(min(max(end, 0.0), 1.0) for end in ends[:-1]), 1.0), high


def _fits(room: Sequence[float], least: Sequence[float]) -> bool:
    return all(most >= low for most, low in zip(room, least, strict=True))


def _room(lines: Sequence[tuple[int, float, float, float]], size: int, by: float) -> list[float]:
    """The share of an axis that each of its positions can do by some time."""
    room = [1.0] * size
    for at, fixed, slope, speed in lines:
        if slope > 0:
            room[at] = min(room[at], max(0.0, (by * speed - fixed) / slope))
    return room


def _least(size: int, needed: Sequence[int]) -> list[float]:
    """The shares with which nobody goes without a row of the coarsest extent, wherever bounds are rounded."""
    if size == 1 or not needed:
        return [0.0] * size
    row = 1 / min(needed)
    least = [row / 2 + 1e-9, *[row] * (size - 2), row / 2 + 1e-9]
    return least if sum(least) <= 1 else [1 / size] * size


def _lines(task: CutTask, cuts: GridCuts, axis: int) -> Iterator[tuple[int, float, float, float]]:
    """Per rank: its place on the axis, its load without any share of it, what a whole share adds, and its speed."""
    step = task.step
    parts = [fractions(size, at) for size, at in zip(step.sizes, cuts, strict=True)]
    for rank, speed in enumerate(task.speeds):
        position, within = divmod(rank, step.ranks)
        at = unravel(within, step.sizes)
        fixed = slope = 0.0
        for correction, work in zip(task.corrections, step.works, strict=True):
            load, depends = correction * work.seconds[position], False
            for other in _axes(work):
                depends |= other == axis
                load *= 1.0 if other == axis else parts[other][at[other]]
            fixed, slope = (fixed, slope + load) if depends else (fixed + load, slope)
        yield at[axis], fixed, slope, speed


def _axes(work: RankWork) -> Iterator[int]:
    return (axis for axes, _ in work.factors for axis in axes)


def _polished(task: CutTask, needed: Sequence[Sequence[int]], cuts: GridCuts) -> GridCuts:
    """Take rows from ranks that finish last for as long as that helps."""
    best, trials = _order(task, cuts), 0
    improved = True
    while improved and trials < _TRIALS:
        improved = False
        one = list(itertools.islice(_neighbours(task, cuts), _TRIALS))
        for other in itertools.islice(itertools.chain(one, _both(one, cuts)), _TRIALS):
            trials += 1
            order = _order(task, other)
            if order < best and _allowed(task, needed, other):
                cuts, best, improved = other, order, True
                break
    return cuts


def _neighbours(task: CutTask, cuts: GridCuts) -> Iterator[GridCuts]:
    """Cuts at which a rank that finishes last has fewer rows: coarse ones first, which make more of a difference."""
    times = seconds(task, cuts)
    last = [rank for rank, time in enumerate(times) if time >= max(times) * (1 - 1e-9)]
    places = sorted(
        {(axis, at) for rank in last for axis, at in enumerate(unravel(rank % task.step.ranks, task.step.sizes))}
    )
    for axis, giver in places:
        size = task.step.sizes[axis]
        marks = list(itertools.accumulate(fractions(size, cuts[axis]), initial=0.0))
        for extent in sorted(task.extents[axis])[:_STEPS]:
            for taker in range(size):
                if taker != giver:
                    yield (*cuts[:axis], _shifted(marks, giver, taker, 1 / extent), *cuts[axis + 1 :])


def _both(one: Sequence[GridCuts], cuts: GridCuts) -> Iterator[GridCuts]:
    """Two such changes of different axes together."""
    changes: dict[int, list[GridCuts]] = {}
    for other in one:
        axis = next((axis for axis, at in enumerate(cuts) if other[axis] != at), None)
        if axis is not None:
            changes.setdefault(axis, []).append(other)
    for (_, firsts), (axis, others) in itertools.combinations(sorted(changes.items()), 2):
        for first, other in itertools.product(firsts, others):
            yield (*first[:axis], other[axis], *first[axis + 1 :])


def _shifted(marks: Sequence[float], giver: int, taker: int, amount: float) -> AxisCuts:
    """Cuts at which one position gives an amount to another, those between them keeping as much as they have."""
    low, high, sign = (giver + 1, taker, -1) if giver < taker else (taker + 1, giver, 1)
    moved = [mark + sign * amount if low <= i <= high else mark for i, mark in enumerate(marks)]
    inner = [min(max(mark, 0.0), 1.0) for mark in moved[1:-1]]
    return (0.0, *itertools.accumulate(inner, max), 1.0)
