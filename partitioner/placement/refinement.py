"""Better assignments from one: calls moved between segments, segments between positions, positions swapped.

As in Fiduccia and Mattheyses (1982), but with the estimate of the step as the gain: the best of all moves is made even where it
makes things worse, the calls it moved stay where they are for the rest of the pass, and the best assignment on the way is kept.
Only calls at the edge of a segment are tried, and only moves after which the graph of segments has no circle.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

from autopar.partitioner.placement.assignment import Assignment, assign
from autopar.partitioner.placement.judging import estimate
from autopar.partitioner.placement.problem import PlacementProblem, kinds, neighbours

_SWAPPED = 16  # segments up to which they change places in pairs
Move = tuple[tuple[int, ...], int]
"""Calls, and the slot they go to."""


class Refinement:
    """A search by moves over slots, `most` of them on every position: slot k is a segment, or nothing, on position k // most.

    It remembers every assignment that it has estimated, and makes `budget` estimates in all.
    """

    def __init__(self, problem: PlacementProblem, most: int, budget: int) -> None:
        self.problem, self.most, self.budget = problem, most, budget
        self.before, self.after = neighbours(problem)
        self.position = [slot // most for slot in range(most * len(problem.positions))]
        self.seen: dict[Assignment, float] = {}
        kind = kinds(problem)
        self.unlike = [(a, b) for a, b in combinations(range(len(kind)), 2) if kind[a] != kind[b]]

    def cost(self, slots: Sequence[int]) -> float:
        """The estimate of an assignment, `inf` where segments wait for each other."""
        assignment = assign(self.problem, slots, self.position)
        if assignment is None:
            self.budget -= 1
            return math.inf
        return self.cost_of(assignment)

    def cost_of(self, assignment: Assignment) -> float:
        """The estimate of an assignment, made once."""
        if assignment not in self.seen:
            self.budget -= 1
            self.seen[assignment] = estimate(self.problem, assignment)
        return self.seen[assignment]

    def slots(self, assignment: Assignment) -> list[int]:
        """The slot of each call."""
        free = [position * self.most for position in range(len(self.problem.positions))]
        slot = []
        for position in assignment.position:
            slot.append(free[position])
            free[position] += 1
        return [slot[segment] for segment in assignment.segment]

    def refine(self, assignment: Assignment, depth: int) -> Assignment:
        """The best assignment that passes of moves lead to; a pass ends `depth` moves after its best one."""
        best, least = self.slots(assignment), self.cost_of(assignment)
        while self.budget > 0:
            slots, cost = self._pass(list(best), least, depth)
            if cost >= least * (1 - 1e-12):
                break
            best, least = slots, cost
        found = assign(self.problem, best, self.position)
        assert found is not None
        return found

    def sweep(self, assignment: Assignment) -> Assignment:
        """What is better at once is kept, segment by segment, the busiest first, until nothing is: for large problems."""
        slots, least = self.slots(assignment), self.cost_of(assignment)
        improved = True
        while improved and self.budget > 0:
            improved = False
            for calls, slot in self._sweep_moves(slots):
                if self.budget <= 0:
                    break
                old = [slots[call] for call in calls]
                for call in calls:
                    slots[call] = slot
                cost = self.cost(slots)
                if cost < least * (1 - 1e-9):
                    least, improved = cost, True
                    continue
                for call, before in zip(calls, old, strict=True):
                    slots[call] = before
        found = assign(self.problem, slots, self.position)
        assert found is not None
        return found

    def _sweep_moves(self, slots: Sequence[int]) -> list[Move]:
        """Moves of single calls to segments beside theirs, those of the positions with most to do first."""
        work = [0.0] * len(self.problem.positions)
        for call, slot in zip(self.problem.calls, slots, strict=True):
            work[self.position[slot]] += call.forward + call.backward
        load = [seconds / speed for seconds, speed in zip(work, self.problem.speeds, strict=True)]
        moves = [((call,), slot) for call in range(len(slots)) for slot in self._beside(slots, call)]
        return sorted(moves, key=lambda move: (-load[self.position[slots[move[0][0]]]], move))

    def _pass(self, slots: list[int], least: float, depth: int) -> tuple[list[int], float]:
        """Moves one after the other, the best first, each call once."""
        best, locked, since = list(slots), set[int](), 0
        while since < depth and self.budget > 0:
            move, cost = self._best_move(slots, locked, least)
            if move is None:
                break
            calls, slot = move
            for call in calls:
                slots[call] = slot
            locked.update(calls)
            since += 1
            if cost < least * (1 - 1e-12):
                best, least, since = list(slots), cost, 0
        return best, least

    def _best_move(self, slots: list[int], locked: set[int], least: float) -> tuple[Move | None, float]:
        """The move of unlocked calls that leads to the least estimate."""
        best: Move | None = None
        cheapest = math.inf
        for calls, slot in self._moves(slots):
            if self.budget <= 0 or not locked.isdisjoint(calls):
                continue
            moved = list(slots)
            for call in calls:
                moved[call] = slot
            cost = self.cost(moved)
            if cost < cheapest:
                best, cheapest = (calls, slot), cost
        return best, cheapest

    def _moves(self, slots: Sequence[int]) -> Iterator[Move]:
        """Single calls to the segments beside them or to new ones, and segments to other positions or into others."""
        members: dict[int, list[int]] = {}
        for call, slot in enumerate(slots):
            members.setdefault(slot, []).append(call)
        empty = self._empty(members)
        for call in range(len(slots)):
            for slot in [*self._beside(slots, call), *empty]:
                if self._may((call,), slot):
                    yield (call,), slot
        for own, calls in sorted(members.items()):
            for slot in [*empty, *sorted(members)]:
                if slot != own and len(calls) > 1 and self._may(calls, slot):
                    yield tuple(calls), slot

    def _empty(self, used: Collection[int]) -> list[int]:
        """The first slot of each position that has no call."""
        slots = {self.position[slot]: slot for slot in reversed(range(len(self.position))) if slot not in used}
        return sorted(slots.values())

    def _beside(self, slots: Sequence[int], call: int) -> list[int]:
        """The other segments that a call reads from, or that read from it."""
        near = {slots[other] for other in self.before[call] | self.after[call]} - {slots[call]}
        return sorted(slot for slot in near if self._may((call,), slot))

    def _may(self, calls: Sequence[int], slot: int) -> bool:
        return all(self.position[slot] in self.problem.allowed[call] for call in calls)

    def swap(self, assignment: Assignment) -> Assignment:
        """Positions exchanged in pairs, and segments in pairs, while that is better."""
        best, least = assignment, self.cost_of(assignment)
        improved = True
        while improved and self.budget > 0:
            improved = False
            for swapped in self._swaps(best):
                if self.budget > 0 and self.cost_of(swapped) < least * (1 - 1e-12):
                    best, least, improved = swapped, self.cost_of(swapped), True
        return best

    def _swaps(self, assignment: Assignment) -> list[Assignment]:
        """Assignments with two positions exchanged, or the positions of two segments."""
        position = assignment.position
        found = []
        for a, b in self.unlike:
            exchange = {a: b, b: a}
            found.append(tuple(exchange.get(at, at) for at in position))
        segments = range(len(position)) if len(position) <= _SWAPPED else ()
        for a, b in combinations(segments, 2):
            if position[a] != position[b]:
                other = list(position)
                other[a], other[b] = other[b], other[a]
                found.append(tuple(other))
        swapped = [Assignment(assignment.segment, each) for each in dict.fromkeys(found)]
        allowed = self.problem.allowed
        return [d for d in swapped if all(at in ok for at, ok in zip(d.positions, allowed, strict=True))]
