"""Calls given to positions one by one along the critical path, and positions of calls made into segments.

HEFT (Topcuoglu, Hariri, Wu 2002): the call with the longest way to the end of the step comes first, and goes where it would be
done soonest, given what the positions do already and when its tensors could be there. What a placement makes of a step of one
micro-batch; with many of them, the loads of the positions decide instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

from autopar.partitioner.placement.assignment import Assignment, assign
from autopar.partitioner.placement.problem import PlacementProblem, TensorUse

Score = Callable[[Assignment], float]


def critical_path(problem: PlacementProblem) -> list[int]:
    """The position of each call by HEFT, forward and backward of a call taken together."""
    work = [call.forward + call.backward for call in problem.calls]
    made: list[list[TensorUse]] = [[] for _ in work]
    read: list[list[TensorUse]] = [[] for _ in work]
    for tensor in problem.tensors:
        made[tensor.source].append(tensor)
        for reader in tensor.readers:
            read[reader].append(tensor)
    rank = _ranks(problem, work, made)
    free = [0.0] * len(problem.positions)
    done = [0.0] * len(work)
    at = [0] * len(work)
    for call in sorted(range(len(work)), key=lambda call: (-rank[call], call)):
        ends = {}
        for position in sorted(problem.allowed[call]):
            there = [done[t.source] + message(problem, t, at[t.source], position) for t in read[call]]
            ends[position] = max([free[position], *there]) + work[call] / problem.positions[position].speed
        at[call] = min(ends, key=lambda position: (ends[position], position))
        done[call] = free[at[call]] = ends[at[call]]
    return at


def message(problem: PlacementProblem, tensor: TensorUse, source: int, target: int) -> float:
    """Seconds of a tensor's message and of its gradient's, 0 on one position."""
    if source == target:
        return 0.0
    links = problem.links
    seconds = links.alpha[source][target] + tensor.size * links.beta[source][target]
    if tensor.gradient:
        seconds += links.alpha[target][source] + tensor.gradient * links.beta[target][source]
    return seconds


def _ranks(problem: PlacementProblem, work: Sequence[float], made: Sequence[Sequence[TensorUse]]) -> list[float]:
    """The longest way from each call to the end, on mean speeds and over mean links; a call's is above its readers'."""
    count = len(problem.positions)
    speed = sum(problem.speeds) / count
    pairs = [(a, b) for a in range(count) for b in range(count)]
    rank = [0.0] * len(work)
    for call in reversed(range(len(work))):
        ways = [0.0]
        for tensor in made[call]:
            sent = sum(message(problem, tensor, a, b) for a, b in pairs) / len(pairs) if count <= 8 else 0.0
            ways += [sent + rank[reader] for reader in tensor.readers]
        rank[call] = max(ways) + max(work[call] / speed, 1e-30)
    return rank


def phases(problem: PlacementProblem, at: Sequence[int]) -> Assignment:
    """The fewest segments by a sweep: a call stands one phase behind what comes to it from other positions."""
    phase = [0] * len(at)
    sources: list[set[int]] = [set() for _ in at]
    for tensor in problem.tensors:
        for reader in tensor.readers:
            sources[reader].add(tensor.source)
    for call, own in enumerate(sources):
        phase[call] = max((phase[source] + (at[source] != at[call]) for source in own), default=0)
    labels = [p * len(problem.positions) + position for p, position in zip(phase, at, strict=True)]
    assignment = assign(problem, labels, [label % len(problem.positions) for label in range(max(labels) + 1)])
    assert assignment is not None, "a phase waits for a later one"
    return assignment


def fewer_segments(problem: PlacementProblem, assignment: Assignment, most: int, score: Score) -> Assignment | None:
    """Segments joined until no position has more than `most`: of two on one position, or else of any two, the best by score.

    None where pins and bans leave no way.
    """
    while True:
        count = [assignment.position.count(q) for q in range(len(problem.positions))]
        if max(count) <= most:
            return assignment
        full = {position for position, number in enumerate(count) if number > most}
        pairs = list(combinations(range(len(assignment.position)), 2))
        same = [
            (a, b)
            for a, b in pairs
            if assignment.position[a] == assignment.position[b] and assignment.position[a] in full
        ]
        best = _best_join(problem, assignment, same, score)
        if best is None:
            others = [(a, b) for a, b in pairs if full & {assignment.position[a], assignment.position[b]}]
            best = _best_join(problem, assignment, others + [(b, a) for a, b in others], score)
        if best is None:
            return None
        assignment = best


def _best_join(
    problem: PlacementProblem, assignment: Assignment, pairs: list[tuple[int, int]], score: Score
) -> Assignment | None:
    """The best assignment in which the first of a pair of segments is part of the second, and stands where that does."""
    best, least = None, float("inf")
    for a, b in pairs:
        there = assignment.position[b]
        if any(s == a and there not in problem.allowed[c] for c, s in enumerate(assignment.segment)):
            continue
        joined = assign(problem, [b if s == a else s for s in assignment.segment], assignment.position)
        if joined is not None and (best is None or score(joined) < least):
            best, least = joined, score(joined)
    return best
