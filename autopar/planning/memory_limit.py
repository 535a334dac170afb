"""The memory limit is one on the peak of a step; the solver's is one on what is kept from call to call. From the one to the other.

What a call takes and gives back while it runs is known once a plan's steps are there (`autopar.codegen.memory_footprint`). The
solver's limit is therefore a means, and the plan that it leads to is walked. Its limits are rungs of a ladder,

    without a limit;  K r, K r^2, ...  with K what the plan without a limit keeps;  last, the least that any plan keeps

which do not depend on the limit that is asked for. Costs rise from rung to rung, peaks mostly fall. The search begins where the
peak should fit if transients stay as they are, goes down until one fits, or up while one does, and halves the distance to the
rung above a few times. It gives up only when all rungs are too high, and some limits beside the one with the least peak as well:
that peak is then the nearest limit that works, for with it the search comes to that plan, or finds one before it.

`next_limit` and `look_closer` look at what has been tried and say which limit to try next, or what the search has come to: they
run the search over from its start, and stop where it comes to a limit that has not been tried.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from autopar.partitioner.problem import NoChoice
from autopar.planning.candidate import Candidate

_RATIO = 0.8
_HALVES = 3
_CLOSER = 2
_EQUAL = 1e-3
"""Share of its cost by which a plan may be cheaper than another, and nobody looks for one between them."""

Trials = Mapping[float | None, Candidate | NoChoice]
"""Limits for the solver (None: none), and what it came to under each."""


@dataclass(frozen=True, slots=True)
class NextLimit:
    """A limit for the solver that is to be tried, in bytes kept from call to call; None for no limit."""

    limit: float | None


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a search came to: the cheapest candidate whose peak fits, None where none does; and the one with the least peak.

    `hurried` where the solver's time was up before it knew of a limit whether anything meets it. `tried` are the limits beside
    which `look_closer` may find a lower peak than the least; empty where there are none.
    """

    best: Candidate | None
    least: Candidate
    hurried: bool = False
    tried: Trials = field(default_factory=dict)


class _Untried(Exception):
    """The search has come to a limit that has not been tried."""

    def __init__(self, limit: float | None) -> None:
        super().__init__(limit)
        self.limit = limit


def next_limit(tried: Trials, limit: float, below: float = math.inf) -> NextLimit | Fitted | None:
    """The next limit to try, or the cheapest plan whose peak meets `limit`; None where no plan costs less than `below`.

    Raises NoChoice where there is no plan at any limit.
    """
    return _replayed(lambda: _fitted(tried, limit, below))


def look_closer(tried: Trials, limit: float) -> NextLimit | Fitted:
    """The next limit to try beside the least peak, or the lowest peak that is found there; for a search that none fits."""

    def lowest() -> Fitted:
        ladder = _Ladder(tried)
        ladder.first(limit)
        candidate = ladder.lowest()
        return Fitted(candidate if candidate.peak <= limit else None, candidate, ladder.hurried)

    fitted = _replayed(lowest)
    assert fitted is not None
    return fitted


def _replayed(search: Callable[[], Fitted | None]) -> NextLimit | Fitted | None:
    try:
        return search()
    except _Untried as untried:
        return NextLimit(untried.limit)


def _fitted(tried: Trials, limit: float, below: float) -> Fitted | None:
    ladder = _Ladder(tried)
    top = ladder.top
    if top.solution.bound >= below:
        return None
    if top.peak <= limit:
        return Fitted(top, top)
    if top.solution.peak <= 0:
        return Fitted(None, top)
    rung = ladder.first(limit)
    if rung is not None:
        best = ladder.between(rung, limit)
        return Fitted(best, best)
    return Fitted(None, min(ladder.candidates(), key=lambda candidate: candidate.peak), ladder.hurried, tried)


class _Ladder:
    """The rungs that the search has come to; `last` is the lowest once it is known, and `least` what is kept there."""

    def __init__(self, tried: Trials) -> None:
        self.tried = tried
        self.top = self.solved(None)
        self.known: dict[int, Candidate | None] = {}
        self.last: int | None = None
        self.least = 0.0
        self.hurried = False

    def solved(self, limit: float | None) -> Candidate:
        """What the solver came to under a limit. Raises NoChoice where that is nothing."""
        if limit not in self.tried:
            raise _Untried(limit)
        candidate = self.tried[limit]
        if isinstance(candidate, NoChoice):
            raise candidate
        return candidate

    def candidates(self) -> list[Candidate]:
        """Everything that was found."""
        return [self.top, *filter(None, self.known.values())]

    def height(self, rung: int) -> float:
        """The solver's limit there."""
        return max(self.top.solution.peak * _RATIO**rung, self.least)

    def at(self, rung: int) -> Candidate | None:
        """What a rung leads to; None below the last one, and where the solver found nothing in time."""
        if rung == 0:
            return self.top
        if self.last is not None and rung > self.last:
            return None
        if rung not in self.known:
            try:
                self.known[rung] = self.solved(self.height(rung))
            except NoChoice as error:
                if self.last is None:
                    self.end(rung, error)
                    return self.at(rung)
                self.known[rung], self.hurried = None, True
        return self.known[rung]

    def end(self, rung: int, error: NoChoice) -> None:
        """There is no plan at this rung: the last is the first at which the least that a plan keeps would be too much."""
        kept = self.top.solution.peak
        least = math.inf if error.least_peak is None else error.least_peak
        self.hurried = not error.proven or math.isinf(least)
        if least >= kept:  # nothing keeps less than the top, or the solver's time was up
            self.last = rung - 1 if math.isinf(least) else 0
            return
        self.least = least
        below = math.log(least / kept) / math.log(_RATIO) if least else rung
        self.last = min(rung, math.floor(below) + 1)

    def first(self, limit: float) -> int | None:
        """The rung from which the search goes down until a peak fits, or up as long as one does; None where none fits."""

        def fits(rung: int) -> bool:
            candidate = self.at(rung)
            return candidate is not None and candidate.peak <= limit

        start = self.start(limit)
        self.at(start)
        start = start if self.last is None else min(start, self.last)
        if fits(start):
            while start > 1 and fits(start - 1):
                start -= 1
            return start
        rung = start + 1
        while self.last is None or rung <= self.last:
            if fits(rung):
                return rung
            rung += 1
        return next((rung for rung in range(start - 1, 0, -1) if fits(rung)), None)

    def start(self, limit: float) -> int:
        """The rung that fits if a plan that keeps less has as much beside it as the top has."""
        kept = self.top.solution.peak
        room = max(limit + kept - self.top.peak, kept * _RATIO**40)
        return max(1, math.ceil(math.log(room / kept) / math.log(_RATIO)))

    def between(self, rung: int, limit: float) -> Candidate:
        """A cheaper one that fits, between a rung that does and the one above, which does not."""
        best, above = self.at(rung), self.at(rung - 1)
        assert best is not None
        low, high = self.height(rung), self.height(rung - 1)
        for _ in range(_HALVES):
            if above is not None and above.solution.cost >= best.solution.cost * (1 - _EQUAL):
                break
            middle = (low + high) / 2
            candidate = self.solved(middle)
            if candidate.peak <= limit:
                best, low = candidate, middle
            else:
                above, high = candidate, middle
        return best

    def lowest(self) -> Candidate:
        """The least peak on all rungs, and half way and a quarter of the way from there to the rungs beside it."""
        by_height = {self.height(rung): candidate for rung, candidate in self.known.items() if candidate is not None}
        by_height[math.inf] = self.top
        for _ in range(_CLOSER):
            heights = sorted(by_height)
            at = min(range(len(heights)), key=lambda i: (by_height[heights[i]].peak, -i))
            for low, high in itertools.pairwise(heights[max(at - 1, 0) : at + 2]):
                middle = (low + min(high, self.top.solution.peak)) / 2
                try:
                    by_height[middle] = self.solved(middle)
                except NoChoice:
                    self.hurried = True
        return min(by_height.values(), key=lambda candidate: (candidate.peak, candidate.solution.cost))
