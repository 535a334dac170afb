"""The oracle: the best assignment of a small problem for the same objective as the heuristics', the simulated makespan.

Calls are given to slots in their order; a slot is a segment of a position. Every assignment is reached once: of the empty slots
of a position only the first is used, and of positions that are alike only the first empty one. Partial assignments are taken up
in the order of a lower bound of all that they can become (best first), complete ones in that of a better bound, after which
they are simulated. The search ends when the least bound that is left is no less than the best makespan found: so the answer is
the optimum, not an estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from autopar.partitioner.placement.assignment import Assignment, assign, is_legal, pipeline
from autopar.partitioner.placement.bounds import pipeline_bound, placement_bound
from autopar.partitioner.placement.judging import Judge
from autopar.partitioner.placement.problem import PlacementProblem, kinds
from autopar.partitioner.schedules.lower_bound import lower_bound

_EXACT = 1 - 1e-12


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best assignment (None: there is no legal one), its makespan, and what no assignment is faster than.

    `simulated` counts the assignments of which a schedule was simulated.
    """

    assignment: Assignment | None
    makespan: float
    bound: float
    simulated: int

    @property
    def proven(self) -> bool:
        """Whether all assignments were covered."""
        return self.bound >= self.makespan * _EXACT


def exhaustive(
    problem: PlacementProblem, most: int, judge: Judge, tries: int = 100_000, known: Assignment | None = None
) -> Optimum:
    """The assignment with the least makespan of all with at most `most` segments on a position.

    It gives up after so many tries, with the best that it has found by then, and a bound. A `known` assignment saves it what is
    not better.
    """
    search = _Completions(problem, most)
    best, least, simulated = known, math.inf if known is None else judge.seconds(known), 0
    queue: list[tuple[float, int, tuple[int, ...], bool]] = [(search.floor, 0, (), False)]
    while queue:
        bound, _, slots, simulate = heappop(queue)
        if bound >= least * _EXACT or tries <= 0:
            return Optimum(best, least, min(bound, least), simulated)
        tries -= 1
        if simulate:
            assignment = search.assignment(slots)
            simulated += 1
            if judge.seconds(assignment) < least:
                best, least = assignment, judge.seconds(assignment)
        elif len(slots) == len(problem.calls):
            lower = max(bound, lower_bound(pipeline(problem, search.assignment(slots))))
            heappush(queue, (lower, -len(slots), slots, True))
        else:
            for slot in search.options(slots):
                longer = (*slots, slot)
                lower = search.bound(longer, bound)
                if lower < least * _EXACT:
                    heappush(queue, (lower, -len(longer), longer, False))
    return Optimum(best, least, least, simulated)


class _Completions:
    """What the search knows of its problem."""

    def __init__(self, problem: PlacementProblem, most: int) -> None:
        self.problem, self.most = problem, most
        self.position = [slot // most for slot in range(most * len(problem.positions))]
        self.floor = placement_bound(problem)
        kind = kinds(problem)
        self.twins = [[a for a in range(b) if kind[a] == kind[b]] for b in range(len(kind))]
        self.parts = [_first_calls(problem, count) for count in range(len(problem.calls) + 1)]
        self.work = [call.forward + call.backward for call in problem.calls]

    def assignment(self, slots: tuple[int, ...]) -> Assignment:
        """What slots of all calls say."""
        found = assign(self.problem, slots, self.position)
        assert found is not None
        return found

    def options(self, slots: tuple[int, ...]) -> list[int]:
        """Slots for the next call: every one in use, and the first empty one of each position that has no unused twin before."""
        used, call = set(slots), len(slots)
        busy = {self.position[slot] for slot in used}
        found = []
        for position in sorted(self.problem.allowed[call]):
            if position not in busy and any(twin not in busy for twin in self.twins[position]):
                continue
            own = range(position * self.most, (position + 1) * self.most)
            found += [slot for slot in own if slot in used]
            found += [slot for slot in own if slot not in used][:1]
        return found

    def bound(self, slots: tuple[int, ...], before: float) -> float:
        """What every completion of a partial assignment takes at least; `inf` where there is none."""
        missing = len(self.problem.positions) - len({self.position[slot] for slot in slots})
        left = len(self.problem.calls) - len(slots)
        if not self.problem.idle and missing > left:
            return math.inf
        part = self.parts[len(slots)]
        assignment = assign(part, slots, self.position)
        if assignment is None:
            return math.inf
        if not left and not is_legal(part, assignment, self.most):
            return math.inf
        task = pipeline(part, assignment)
        if task.limit is not None and min(task.limit) < 0:
            return math.inf
        return max(before, pipeline_bound(task), self._room(slots))

    def _room(self, slots: tuple[int, ...]) -> float:
        """All work over all speeds, with the positions that have more than that counted by themselves."""
        count, speeds = self.problem.microbatches, self.problem.speeds
        load = [0.0] * len(speeds)
        for slot, work in zip(slots, self.work, strict=False):
            load[self.position[slot]] += count * work
        left = count * sum(self.work[len(slots) :])
        ends = sorted(zip((seconds / speed for seconds, speed in zip(load, speeds, strict=True)), speeds, strict=True))
        total = filled = 0.0
        level = 0.0
        for end, speed in ends:
            if total and (left + filled) / total <= end:
                break
            total, filled = total + speed, filled + end * speed
            level = (left + filled) / total
        return level


def _first_calls(problem: PlacementProblem, count: int) -> PlacementProblem:
    """The problem of the first calls alone: what they take, the rest can only add to."""
    tensors = tuple(
        replace(t, readers=tuple(r for r in t.readers if r < count)) for t in problem.tensors if t.source < count
    )
    parameters = tuple(replace(p, readers=tuple(r for r in p.readers if r < count)) for p in problem.parameters)
    return replace(
        problem,
        calls=problem.calls[:count],
        tensors=tuple(t for t in tensors if t.readers),
        parameters=tuple(p for p in parameters if p.readers),
        pins=tuple(pin for pin in problem.pins if pin[0] < count),
        bans=tuple(ban for ban in problem.bans if ban[0] < count),
    )
