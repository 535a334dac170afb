"""Better assignments from one: calls moved between segments, segments between positions, positions swapped.

As in Fiduccia and Mattheyses (1982), but with the estimate of the step as the gain: the best of all moves is made even where it
makes things worse, the calls it moved stay where they are for the rest of the pass, and the best assignment on the way is kept.
Only calls at the edge of a segment are tried, and only moves after which the graph of segments has no circle.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

from autopar.partitioner.placement.assignment import Assignment, assign
from autopar.partitioner.placement.judging import estimate
from autopar.partitioner.placement.problem import PlacementProblem, kinds, neighbours

_FEW_SEGMENTS = 16  # up to which they change places in pairs, and go into each other
_FEW_CALLS = 24  # up to which every call is tried as a segment of its own
_DEPTH = 8  # moves after its best assignment with which a pass ends
_BETTER = 1 - 1e-12
Move = tuple[tuple[int, ...], int]
"""Calls, and the slot they go to."""


class Refinement:
    """A search by moves over slots, `most` of them on every position: slot k is a segment, or nothing, on position k // most.

    It remembers every assignment that it has estimated, and looks at `budget` of them in all, at none after `deadline`.
    """

    def __init__(self, problem: PlacementProblem, most: int, budget: int, deadline: float = math.inf) -> None:
        self.problem, self.most, self.budget, self.deadline = problem, most, budget, deadline
        self.before, self.after = neighbours(problem)
        self.position = [slot // most for slot in range(most * len(problem.positions))]
        self.seen: dict[Assignment, float] = {}
        kind = kinds(problem)
        self.unlike = [(a, b) for a, b in combinations(range(len(kind)), 2) if kind[a] != kind[b]]
        self.reserve = 0

    @property
    def spent(self) -> bool:
        """Whether no more assignments are to be looked at now."""
        return self.budget <= self.reserve or time.perf_counter() > self.deadline

    def cost_of(self, assignment: Assignment) -> float:
        """The estimate of an assignment, made once."""
        if assignment not in self.seen:
            self.seen[assignment] = estimate(self.problem, assignment)
        return self.seen[assignment]

    def best(self) -> Assignment:
        """The best assignment that was estimated."""
        return min(self.seen, key=self.cost_of)

    def improve(self, starts: Sequence[Assignment]) -> None:
        """Three quarters of the budget for the starts in turn; the rest for the best assignment, kicked out of its minimum."""
        whole = self.budget
        for number, start in enumerate(starts, 1):
            self.reserve = whole - 3 * whole * number // (4 * len(starts))
            self._descend(start)
        self.reserve = 0
        rng = random.Random(0)
        best = self.best()
        while not self.spent:
            self.budget -= 1  # a kick that leads nowhere ends the search, too
            found = self._descend(self._kicked(best, rng))
            best = found if self.cost_of(found) < self.cost_of(best) else best

    def _descend(self, start: Assignment) -> Assignment:
        """Swaps and passes of moves, while they find something better."""
        while not self.spent:
            found = self.swap(self.refine(start))
            if self.cost_of(found) >= self.cost_of(start) * _BETTER:
                break
            start = found
        return start

    def refine(self, assignment: Assignment) -> Assignment:
        """The best assignment that passes of moves lead to."""
        best, least = self._slots(assignment), self.cost_of(assignment)
        while not self.spent:
            slots, cost = self._pass(list(best), least)
            if cost >= least * _BETTER:
                break
            best, least = slots, cost
        return self._assignment(best)

    def sweep(self, assignment: Assignment) -> Assignment:
        """What is better at once is kept, the busiest positions first, until nothing is: for large problems."""
        slots, least = self._slots(assignment), self.cost_of(assignment)
        improved = True
        while improved and not self.spent:
            improved = False
            for calls, slot in self._sweep_moves(slots):
                if self.spent:
                    break
                moved = _after(slots, (calls, slot))
                cost = self._cost(moved)
                if cost < least * (1 - 1e-9):
                    slots, least, improved = moved, cost, True
        return self._assignment(slots)

    def swap(self, assignment: Assignment) -> Assignment:
        """Positions exchanged in pairs, and segments in pairs, while that is better."""
        best, least = assignment, self.cost_of(assignment)
        improved = True
        while improved and not self.spent:
            improved = False
            for swapped in self._swaps(best):
                self.budget -= 1
                if not self.spent and self.cost_of(swapped) < least * _BETTER:
                    best, least, improved = swapped, self.cost_of(swapped), True
        return best

    def _slots(self, assignment: Assignment) -> list[int]:
        """The slot of each call."""
        free = [position * self.most for position in range(len(self.problem.positions))]
        slot = []
        for position in assignment.position:
            slot.append(free[position])
            free[position] += 1
        return [slot[segment] for segment in assignment.segment]

    def _assignment(self, slots: Sequence[int]) -> Assignment:
        found = assign(self.problem, slots, self.position)
        assert found is not None, "segments that wait for each other"
        return found

    def _cost(self, slots: Sequence[int]) -> float:
        """The estimate of an assignment, `inf` where segments wait for each other."""
        self.budget -= 1
        assignment = assign(self.problem, slots, self.position)
        return math.inf if assignment is None else self.cost_of(assignment)

    def _kicked(self, assignment: Assignment, rng: random.Random) -> Assignment:
        """A few drawn moves away."""
        slots = self._slots(assignment)
        for _ in range(rng.randint(2, 4)):
            moves = [((call,), slot) for call in range(len(slots)) for slot in self._beside(slots, call)]
            if moves:
                moved = _after(slots, rng.choice(moves))
                slots = moved if assign(self.problem, moved, self.position) is not None else slots
        return self._assignment(slots)

    def _sweep_moves(self, slots: Sequence[int]) -> list[Move]:
        """Moves of single calls to segments beside theirs, those of the positions with most to do first."""
        load = [0.0] * len(self.problem.positions)
        for call, slot in zip(self.problem.calls, slots, strict=True):
            position = self.position[slot]
            load[position] += (call.forward + call.backward) / self.problem.positions[position].speed
        moves = [((call,), slot) for call in range(len(slots)) for slot in self._beside(slots, call)]
        return sorted(moves, key=lambda move: (-load[self.position[slots[move[0][0]]]], move))

    def _pass(self, slots: list[int], least: float) -> tuple[list[int], float]:
        """Moves one after the other, the best first, each call once."""
        best, locked, since = list(slots), set[int](), 0
        while since < _DEPTH and not self.spent:
            move, cost = self._best_move(slots, locked)
            if move is None:
                break
            slots = _after(slots, move)
            locked.update(move[0])
            since += 1
            if cost < least * _BETTER:
                best, least, since = list(slots), cost, 0
        return best, least

    def _best_move(self, slots: list[int], locked: set[int]) -> tuple[Move | None, float]:
        """The move of unlocked calls that leads to the least estimate."""
        best: Move | None = None
        cheapest = math.inf
        for move in self._moves(slots):
            if self.spent or not locked.isdisjoint(move[0]):
                continue
            cost = self._cost(_after(slots, move))
            if cost < cheapest:
                best, cheapest = move, cost
        return best, cheapest

    def _moves(self, slots: Sequence[int]) -> Iterator[Move]:
        """Single calls to the segments beside them or to new ones, and segments to other positions or into others."""
        members: dict[int, list[int]] = {}
        for call, slot in enumerate(slots):
            members.setdefault(slot, []).append(call)
        empty = self._empty(members)
        new = empty if len(slots) <= _FEW_CALLS else []
        for call in range(len(slots)):
            for slot in [*self._beside(slots, call), *new]:
                if self._may((call,), slot):
                    yield (call,), slot
        if len(members) <= _FEW_SEGMENTS:
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

    def _swaps(self, assignment: Assignment) -> list[Assignment]:
        """Assignments with two positions exchanged, or the positions of two segments."""
        position = assignment.position
        found = []
        for a, b in self.unlike:
            exchange = {a: b, b: a}
            found.append(tuple(exchange.get(at, at) for at in position))
        segments = range(len(position)) if len(position) <= _FEW_SEGMENTS else ()
        for a, b in combinations(segments, 2):
            if position[a] != position[b]:
                other = list(position)
                other[a], other[b] = other[b], other[a]
                found.append(tuple(other))
        swapped = [Assignment(assignment.segment, each) for each in dict.fromkeys(found)]
        allowed = self.problem.allowed
        return [d for d in swapped if all(at in ok for at, ok in zip(d.positions, allowed, strict=True))]


def _after(slots: Sequence[int], move: Move) -> list[int]:
    """The slots when a move has been made."""
    moved = list(slots)
    for call in move[0]:
        moved[call] = move[1]
    return moved
