"""Letters and cuts of ranks that are not alike, chosen in turn until the step gets no shorter.

    cuts by speed alone; cuts by memory alone, where memories differ
    until nothing improves, from each of these:
        the plan whose step is shortest under these cuts                   [the solver's]
        the cuts that let the ranks of this plan finish together           [`autopar.partitioner.cuts`]

Every plan on the way is looked at as a whole, communication and memory included, also with balanced parts; the shortest step wins.
A rank whose memory the best cuts would exceed counts as slower by as much, until what it has to hold fits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from autopar.errors import InfeasiblePlan
from autopar.ir.grid import GridShape
from autopar.ir.layout import cut_bounds
from autopar.partitioner.cuts.best_cuts import CutTask, best_cuts, rounded_cuts, seconds
from autopar.partitioner.cuts.rank_work import AxisCuts, GridCuts, RankWork, StepWork
from autopar.partitioner.formulation.strategies import filled_factors
from autopar.planning.candidate import Candidate, candidate_of
from autopar.planning.request import Request
from autopar.planning.unequal.rank_loads import Rows, cut_rows, parts_left
from autopar.planning.unequal.step_work import step_work
from autopar.progress import Progress, timed

_ROUNDS = 3
_FINE = 720  # rows of every axis, before a plan says what is cut
_SQUEEZES = 6  # how often a rank's memory makes it slower
_ROOM = 0.98  # of its memory, to which it is squeezed
_LONGER = 1e-9  # relative
_LARGEST = 10_000  # denominator
_DENOMINATORS = (3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_HARDLY = 0.005  # relative
_FEW = 4  # parts that are told one by one


def alternated(request: Request, solve: Callable[[GridShape], Candidate], tell: Progress) -> Candidate:
    """The best plan with its cuts; `solve` gives that of a grid that is cut. Raises InfeasiblePlan where none fits."""
    best: Candidate | None = None
    refused: InfeasiblePlan | None = None
    for start in dict.fromkeys(_starts(request)):
        grid, seen = start, set[GridShape]()
        while grid not in seen and len(seen) < _ROUNDS:
            seen.add(grid)
            try:
                candidate = solve(grid)
            except InfeasiblePlan as error:
                refused = refused or error
                break
            with timed(tell, "cut") as said:
                again = recut(candidate, request)
                fitting = [one for one in (*again, candidate) if one.peak <= request.limit]
                best = min([*fitting, *([best] if best else [])], key=lambda one: one.seconds * (1 + _LONGER))
                grid = fitting[0].built.grid if fitting else grid
                said(f"{_text(grid)}; the step takes {min(one.seconds for one in fitting):.4g} s")
    if best is None:
        assert refused is not None
        raise refused
    return best


def recut(candidate: Candidate, request: Request) -> list[Candidate]:
    """The same choices under the cuts that suit them, and in balanced parts; without those that do not fit the memory."""
    built, optimizer = candidate.built, request.options.optimizer
    grids = [*_best_grids(candidate, request), built.grid.balanced]
    found, factors = [], _must_fill(candidate)
    for grid in dict.fromkeys(grids):
        if grid != built.grid and _filled(factors, grid):
            found.append(candidate_of(replace(built, grid=grid), candidate.solution, optimizer))
    found = [one for one in (*found, candidate) if one.peak <= request.limit]
    return sorted(found, key=lambda one: one.seconds)


def _best_grids(candidate: Candidate, request: Request) -> Iterator[GridShape]:
    """Grids whose cuts let the ranks finish together, with the memory of each heeded."""
    built, grid = candidate.built, candidate.built.grid
    works = step_work(candidate, {}, request.options.optimizer)
    number = {name: axis for axis, name in enumerate(grid.names)}
    parts = tuple(
        RankWork(tuple((tuple(number[name] for name in names), extent) for names, extent in work.cuts), (work.seconds,))
        for work in works
    )
    step, rows = StepWork(grid.sizes, parts), cut_rows(built, candidate.decision)
    speeds, factors = built.machine.speeds(grid.size), _must_fill(candidate)
    for _ in range(_SQUEEZES):
        task = CutTask(step, (1.0,) * len(parts), speeds, rows, lambda cuts: _filled(factors, _cut(grid, cuts)))
        best = best_cuts(task, _cuts_of(grid))
        rounded = rounded_cuts(task, best)
        found = _cut(grid, rounded if rounded != best else _readable(task, _simple(best, rows)))
        yield found
        held = candidate_of(replace(built, grid=found), candidate.solution, request.options.optimizer)
        if held.peak <= request.limit:
            return
        room = [rank.memory * _ROOM / max(rank.peak, 1) for rank in held.ranks]
        speeds = tuple(speed * min(1.0, spare) for speed, spare in zip(speeds, room, strict=True))


def _starts(request: Request) -> Iterator[GridShape]:
    """The grid cut by the speeds of its ranks, and by their memories."""
    grid, machine = request.grid, request.machine
    rows = tuple((_FINE,) * (size > 1) for size in grid.sizes)
    factors = tuple(((axis,), _FINE) for axis, size in enumerate(grid.sizes) if size > 1)
    step = StepWork(grid.sizes, (RankWork(factors, (1.0,)),))
    for speeds in (machine.speeds(grid.size), request.memories):
        task = CutTask(step, (1.0,), tuple(map(float, speeds)), rows, lambda cuts: True)
        yield _cut(grid, _readable(task, _simple(best_cuts(task, _cuts_of(grid)), rows)))


def _filled(factors: Iterable[tuple[tuple[int, ...], int]], grid: GridShape) -> bool:
    """Whether every rank has a row of each of these factors."""
    return all(all(parts_left(axes, extent, grid)) for axes, extent in factors)


def _must_fill(candidate: Candidate) -> frozenset[tuple[tuple[int, ...], int]]:
    """The factors of which every rank needs a row."""
    calls = candidate.built.calls
    return frozenset(
        factor
        for name, strategy in candidate.decision.strategies.items()
        for factor in filled_factors(calls[name].rule, strategy)
    )


def _cuts_of(grid: GridShape) -> GridCuts:
    return tuple(grid.cuts_of(axis) or None for axis in range(len(grid.sizes)))


def _cut(grid: GridShape, cuts: GridCuts) -> GridShape:
    named = {name: one for name, one in zip(grid.names, cuts, strict=True) if one is not None}
    return grid.cut(named)


def _readable(task: CutTask, cuts: GridCuts) -> GridCuts:
    """Cuts nearby with smaller denominators, where the ranks finish hardly later with them."""
    enough = max(seconds(task, cuts)) * (1 + _HARDLY)
    for largest in _DENOMINATORS:
        near = tuple(
            None if one is None else tuple(float(Fraction(cut).limit_denominator(largest)) for cut in one)
            for one in cuts
        )
        if task.legal(near) and max(seconds(task, near)) <= enough:
            return near
    return cuts


def _simple(cuts: GridCuts, rows: Rows) -> GridCuts:
    """The fractions with the smallest denominators that cut these rows at the same bounds; none where those are balanced."""
    return tuple(_simple_axis(one, own) for one, own in zip(cuts, rows, strict=True))


def _simple_axis(cuts: AxisCuts, rows: Sequence[int]) -> AxisCuts:
    if cuts is None or not rows:
        return None
    parts = len(cuts) - 1
    bounds = {extent: cut_bounds(extent, parts, cuts) for extent in rows}
    if all(bounds[extent] == cut_bounds(extent, parts) for extent in rows):
        return None
    simple = [0.0]
    for i in range(1, parts):
        low = max(Fraction(2 * at[i] - 1, 2 * extent) for extent, at in bounds.items())
        high = min(Fraction(2 * at[i] + 1, 2 * extent) for extent, at in bounds.items())
        simple.append(_simplest(max(low, Fraction(0)), min(high, Fraction(1)), cuts[i]))
    found = tuple(itertools.accumulate((*simple, 1.0), max))
    return found if all(cut_bounds(extent, parts, found) == bounds[extent] for extent in rows) else cuts


def _simplest(low: Fraction, high: Fraction, otherwise: float) -> float:
    """The fraction of the smallest denominator inside of an interval, the nearest to its middle; its ends are in if 0 or 1."""
    for denominator in range(1, _LARGEST):
        first, last = math.floor(low * denominator) + (low > 0), math.ceil(high * denominator) - (high < 1)
        if first <= last:
            middle = (low + high) / 2
            return min(range(first, last + 1), key=lambda n: abs(Fraction(n, denominator) - middle)) / denominator
    return otherwise


def _text(grid: GridShape) -> str:
    """The parts of each axis that is cut unevenly, in words."""
    parts = {name: [high - low for low, high in pairwise(cuts)] for name, cuts in grid.named_cuts.items()}
    texts = (
        f"{name} in parts of {', '.join(f'{part:.1%}' for part in every)}"
        if len(every) <= _FEW
        else f"{name} in {len(every)} parts of {min(every):.1%} to {max(every):.1%}"
        for name, every in parts.items()
    )
    return "; ".join(texts) or "balanced parts"
