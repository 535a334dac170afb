"""Assignments to begin a search with: optimal cuts of chains, branches side by side, the critical path, and equal work."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from autopar.partitioner.placement.assignment import Assignment, assign
from autopar.partitioner.placement.baselines import baselines
from autopar.partitioner.placement.branches import calls_of, decompose, spread
from autopar.partitioner.placement.chain_cuts import CutWay, chain, cut, labels_of
from autopar.partitioner.placement.coarsening import merged
from autopar.partitioner.placement.judging import estimate
from autopar.partitioner.placement.list_scheduling import critical_path, fewer_segments, phases
from autopar.partitioner.placement.problem import PlacementProblem

_MOST_PHASES = 48
_SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.0)  # of the micro-batches in flight that fill a pipeline
_FEW = 64  # calls up to which chains are cut into the segments of all rounds at once, too


def starting_points(problem: PlacementProblem, most: int, kept: int) -> tuple[list[Assignment], list[CutWay]]:
    """Different assignments, of which some may not fit the memory or may leave positions without a call.

    Those by branches and by the critical path, and of the cuts of chains those `kept` with the best estimates. Beside them the
    ways to cut a chain, the best first.
    """
    tree = decompose(problem)
    sideways = [_legal(problem, at, most) for at in (spread(problem, tree), critical_path(problem))]
    ways: dict[Assignment, CutWay | None] = {each: None for each in baselines(problem).values()}
    for order in _different([list(range(len(problem.calls))), calls_of(tree)]):
        for way, assignment in chain_assignments(problem, order, ways_to_cut(problem, most)):
            ways.setdefault(assignment, way)
    cuts = sorted((each for each in ways if _heeds(problem, each, most)), key=partial(estimate, problem))
    found = [*(each for each in sideways if each is not None and _heeds(problem, each, most)), *cuts]
    best = dict.fromkeys(way for way in map(ways.get, cuts) if way is not None)
    return list(dict.fromkeys(found))[: kept + len(sideways)], list(best)


def _different(orders: Sequence[list[int]]) -> list[list[int]]:
    return [list(order) for order in dict.fromkeys(map(tuple, orders))]


def chain_assignments(
    problem: PlacementProblem, order: Sequence[int], ways: Iterable[CutWay]
) -> Iterator[tuple[CutWay, Assignment]]:
    """The cuts of an order, in every way that can be."""
    sums = chain(merged(problem, [[call] for call in order]))
    for way in ways:
        starts = cut(sums, way)
        if starts is not None:
            labels = [0] * len(order)
            for call, label in zip(order, labels_of(starts, len(order)), strict=True):
                labels[call] = label
            assignment = assign(problem, labels, way.positions)
            assert assignment is not None, "an order of calls that is not topological"
            yield way, assignment


def ways_to_cut(problem: PlacementProblem, most: int) -> list[CutWay]:
    """One to `most` segments a position, filled more or less.

    Where memory is limited, with room for as many micro-batches in flight as fill a pipeline, for a share of these, or for one.
    """
    limited = any(each.memory is not None for each in problem.positions)
    ways = []
    for positions, rounds in _layouts(problem, most):
        behind = range(len(positions), 0, -1)
        for share in _SHARES if limited else (0.0,):
            in_flight = tuple(max(1, min(problem.microbatches, math.ceil(share * end))) for end in behind)
            fills = (0.0,) if 0 < share < 1 else (0.0, 0.5) if rounds > 1 else (0.0, 0.5, 1.0)
            ways += [CutWay(tuple(positions), in_flight, fill, rounds) for fill in fills]
    return list(dict.fromkeys(ways))


def _layouts(problem: PlacementProblem, most: int) -> list[tuple[list[int], int]]:
    """The positions of a chain's segments, and in how many rounds it is cut: in one direction each time, or there and back."""
    count = len(problem.positions)
    speeds = problem.speeds
    fast = sorted(range(count), key=lambda q: (-speeds[q], q))
    found: list[tuple[list[int], int]] = []
    for order in _different([list(range(count)), fast, fast[::-1]]):
        found.append((order, 1))
        if problem.idle:
            found += [(order[:used], 1) for used in range(1, count)]
        for rounds in sorted({2, most}) if most > 1 else ():
            turning = [q for turn in range(rounds) for q in (order[::-1] if turn % 2 else order)]
            found += [(order * rounds, rounds), (turning, rounds)]
            if len(problem.calls) <= _FEW:
                found += [(order * rounds, 1), (turning, 1)]
    return [(layout, rounds) for layout, rounds in found if len(layout) <= len(problem.calls)]


def _legal(problem: PlacementProblem, at: Sequence[int], most: int) -> Assignment | None:
    """Positions of calls made into an assignment: moved where they must not be, then joined into few segments."""
    allowed = [
        position if position in ok else min(ok, key=lambda q: (abs(q - position), q))
        for position, ok in zip(at, problem.allowed, strict=True)
    ]
    assignment = phases(problem, allowed)
    if len(assignment.position) > _MOST_PHASES:
        return None
    return fewer_segments(problem, assignment, most, partial(estimate, problem))


def _heeds(problem: PlacementProblem, assignment: Assignment, most: int) -> bool:
    """Whether an assignment heeds pins, bans and the most segments of a position."""
    few = all(assignment.position.count(q) <= most for q in set(assignment.position))
    return few and all(at in ok for at, ok in zip(assignment.positions, problem.allowed, strict=True))
