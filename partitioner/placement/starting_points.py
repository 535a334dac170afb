"""Assignments to begin a search with: optimal cuts of chains, branches side by side, the critical path, and equal work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from autopar.partitioner.placement.assignment import Assignment, assign
from autopar.partitioner.placement.baselines import baselines
from autopar.partitioner.placement.branches import calls_of, decompose, spread
from autopar.partitioner.placement.chain_cuts import chain, cut, labels_of
from autopar.partitioner.placement.coarsening import merged
from autopar.partitioner.placement.judging import estimate
from autopar.partitioner.placement.list_scheduling import critical_path, fewer_segments, phases
from autopar.partitioner.placement.problem import PlacementProblem

_MOST_PHASES = 48


def starting_points(problem: PlacementProblem, most: int, kept: int) -> list[Assignment]:
    """Different assignments, of which some may not fit the memory or may leave positions without a call.

    Those by branches and by the critical path, and of the cuts of chains those `kept` with the best estimates.
    """
    tree = decompose(problem)
    sideways = [_legal(problem, at, most) for at in (spread(problem, tree), critical_path(problem))]
    orders = [list(range(len(problem.calls))), calls_of(tree)]
    cuts = [assignment for order in _different(orders) for assignment in chain_assignments(problem, order, most)]
    cuts = sorted([*cuts, *baselines(problem).values()], key=partial(estimate, problem))
    found = [*(each for each in sideways if each is not None), *cuts]
    heeding = list(dict.fromkeys(each for each in found if _heeds(problem, each, most)))
    return heeding[: kept + len(sideways)]


def _different(orders: Sequence[list[int]]) -> list[list[int]]:
    return [list(order) for order in dict.fromkeys(map(tuple, orders))]


def chain_assignments(
    problem: PlacementProblem, order: Sequence[int], most: int, fills: Sequence[float] = (0.0, 0.5, 1.0)
) -> Iterator[Assignment]:
    """Optimal cuts of an order, for one to `most` rounds of the positions, and for fewer positions where some may be idle."""
    ordered = merged(problem, [[call] for call in order])
    sums = chain(ordered)
    limited = any(each.memory is not None for each in problem.positions)
    for positions in _layouts(problem, most):
        ends = range(len(positions), 0, -1)
        filling = [min(problem.microbatches, end) for end in ends]
        for in_flight in [filling, [1] * len(positions)] if limited else [[1] * len(positions)]:
            for fill in fills:
                starts = cut(sums, positions, fill, in_flight)
                if starts is not None:
                    labels = [0] * len(order)
                    for call, label in zip(order, labels_of(starts, len(order)), strict=True):
                        labels[call] = label
                    assignment = assign(problem, labels, positions)
                    assert assignment is not None
                    yield assignment


def _layouts(problem: PlacementProblem, most: int) -> list[list[int]]:
    """The positions of a chain's segments: round by round in one direction, and there and back."""
    count = len(problem.positions)
    speeds = problem.speeds
    fast = sorted(range(count), key=lambda q: (-speeds[q], q))
    found: list[list[int]] = []
    for order in (list(range(count)), fast, fast[::-1]):
        for rounds in range(1, most + 1):
            found.append(order * rounds)
            found.append([q for turn in range(rounds) for q in (order[::-1] if turn % 2 else order)])
        if problem.idle:
            found += [order[:used] for used in range(1, count)]
    return [layout for layout in _different(found) if len(layout) <= len(problem.calls)]


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
