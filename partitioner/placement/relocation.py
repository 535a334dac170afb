"""Which segments to move to which positions, from how long each takes and how fast the positions are: numbers that all ranks share.

The calls of the problem are the segments, each by itself in every assignment. Where few assignments are possible, all are tried;
otherwise those that single moves and swaps lead to, from the best few found so far. They are compared by what no schedule of
them beats, and the best of them by the makespan of a schedule, beside the one that runs now.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from autopar.errors import InfeasiblePlan
from autopar.ir.pipeline.schedule import ActionLists
from autopar.partitioner.placement.assignment import Assignment, homes, pipeline
from autopar.partitioner.placement.judging import estimate
from autopar.partitioner.placement.problem import PlacementProblem
from autopar.partitioner.schedules.auto import auto
from autopar.partitioner.schedules.simulate import makespan

Places = tuple[int, ...]
"""The position of each segment."""
_ALL = 600  # assignments up to which all are estimated
_BEAM = 4  # of which moves are tried, of those found so far
_ESTIMATES = 4000
_ACTIONS = 8000  # in all schedules that are compared
_EQUAL = 1e-9


@dataclass(frozen=True, slots=True)
class SegmentMove:
    """Where segments are to stand, under which lists; seconds of a step before and after, and the bytes that change owner.

    The bytes are those of one rank of each position, all together.
    """

    places: Places
    lists: ActionLists
    before: float
    after: float
    bytes: float

    def moves(self, places: Sequence[int]) -> dict[int, int]:
        """The segments that are to stand elsewhere, and where."""
        pairs = enumerate(zip(places, self.places, strict=True))
        return {segment: there for segment, (here, there) in pairs if here != there}


def best_move(
    problem: PlacementProblem,
    places: Sequence[int],
    lists: ActionLists,
    price: Callable[[float], float],
    steps: int,
    least: float = 0.0,
) -> SegmentMove | None:
    """The move that saves most over so many steps, its price taken off; None where none saves the share `least` of a step.

    `places` are those of the segments now, `lists` what runs now; `price` gives the seconds of sending so many bytes.
    """
    here = tuple(places)
    before = makespan(pipeline(problem, at_places(here)), lists)
    enough = before * (1 - least)
    best: SegmentMove | None = None
    actions = 0

    def cost(seconds: float, size: float) -> float:
        return seconds * steps + price(size)

    lowest = min(before * steps, math.inf)
    for seconds, candidate in _candidates(problem, here):
        if seconds > enough * (1 - _EQUAL) or seconds * steps > lowest or actions > _ACTIONS:
            break
        size = moved_bytes(problem, here, candidate)
        if cost(seconds, size) > lowest * (1 - _EQUAL):
            continue
        task = pipeline(problem, at_places(candidate))
        try:
            found = auto(task, tries=0)
        except InfeasiblePlan:
            continue
        actions += sum(map(len, found))
        after = makespan(task, found)
        if after <= enough * (1 - _EQUAL) and cost(after, size) < lowest * (1 - _EQUAL):
            best, lowest = SegmentMove(candidate, found, before, after, size), cost(after, size)
    return best


def at_places(places: Sequence[int]) -> Assignment:
    """The assignment in which every call is a segment of its own."""
    return Assignment(tuple(range(len(places))), tuple(places))


def moved_bytes(problem: PlacementProblem, before: Sequence[int], after: Sequence[int]) -> float:
    """Bytes of parameters, gradients and optimizer state that positions get which have them not."""
    old, new = (homes(problem, at_places(each)) for each in (before, after))
    ways = zip(problem.parameters, old, new, strict=True)
    return sum(parameter.size * len({*there} - {*here}) for parameter, here, there in ways)


def _candidates(problem: PlacementProblem, here: Places) -> list[tuple[float, Places]]:
    """Assignments with what no schedule of them beats, the best first; where the segments stand now is one of them."""
    seen: dict[Places, float] = {}

    def look(every: Iterable[Places]) -> None:
        for places in every:
            if len(seen) >= _ESTIMATES:
                return
            if places not in seen and _legal(problem, places):
                seen[places] = estimate(problem, at_places(places))

    look([here])
    if len(problem.positions) ** len(here) <= _ALL:
        look(product(range(len(problem.positions)), repeat=len(here)))
        return _best_first(seen)
    tried: set[Places] = set()
    while len(seen) < _ESTIMATES:
        front = [places for _, places in _best_first(seen)[:_BEAM] if places not in tried]
        if not front:
            break
        tried.update(front)
        look(places for each in front for places in _neighbours(each, len(problem.positions)))
    return _best_first(seen)


def _best_first(seen: dict[Places, float]) -> list[tuple[float, Places]]:
    return sorted((seconds, places) for places, seconds in seen.items())


def _legal(problem: PlacementProblem, places: Places) -> bool:
    """Whether every segment may stand there, and no position stays without one where it had to have one."""
    heeded = all(at in allowed for at, allowed in zip(places, problem.allowed, strict=True))
    return heeded and (problem.idle or len(set(places)) == len(problem.positions))


def _neighbours(places: Places, positions: int) -> Iterator[Places]:
    """With one segment elsewhere, then with two that have changed places."""
    for segment in range(len(places)):
        for position in range(positions):
            if position != places[segment]:
                yield (*places[:segment], position, *places[segment + 1 :])
    for one, other in combinations(range(len(places)), 2):
        if places[one] != places[other]:
            swapped = list(places)
            swapped[one], swapped[other] = places[other], places[one]
            yield tuple(swapped)
