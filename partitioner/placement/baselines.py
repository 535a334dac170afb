"""What people do by hand: calls cut in their order, by equal counts, by equal work, or dealt round the positions."""

from __future__ import annotations

from autopar.partitioner.placement.assignment import Assignment, assign
from autopar.partitioner.placement.chain_cuts import equal_cut, labels_of
from autopar.partitioner.placement.problem import PlacementProblem

_ROUNDS = 8
_LONG = 32_000  # micro-batches of segments in a long schedule


def baselines(problem: PlacementProblem) -> dict[str, Assignment]:
    """An assignment by each rule, whatever pins, bans and memory say; positions without a call where there are more than calls.

    "round robin" deals stretches of equal counts round the positions, each a segment: single calls where these are few, at most
    eight stretches a position, and fewer where schedules would be long.
    """
    count, positions = len(problem.calls), min(len(problem.positions), len(problem.calls))
    work = [call.forward + call.backward for call in problem.calls]
    rounds = max(1, min(_ROUNDS, _LONG // (positions * problem.microbatches)))
    runs = min(count, rounds * positions)
    return {
        "round robin": _contiguous(problem, equal_cut([1.0] * count, runs), positions),
        "equal counts": _contiguous(problem, equal_cut([1.0] * count, positions), positions),
        "equal work": _contiguous(problem, equal_cut(work, positions), positions),
    }


def _contiguous(problem: PlacementProblem, starts: list[int], positions: int) -> Assignment:
    labels = labels_of(starts, len(problem.calls))
    assignment = assign(problem, labels, [label % positions for label in range(len(starts))])
    assert assignment is not None, "calls that are not in a topological order"
    return assignment
