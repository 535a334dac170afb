"""When to move boundaries, and where to: decisions from numbers that all ranks share, so that each makes them alone and alike.

What every rank has computed for is known of every step. Ranks have the speeds v_r = f_r / T_r, with f_r their work under the
cuts (`autopar.partitioner.cuts`, corrected by what earlier moves have shown: `work_fit`) and T_r the median of their seconds
over the last k steps. `best_cuts` finds the cuts at which the slowest would finish first. A move pays if it saves, over the
horizon, more than it costs.

Noise must not move a boundary back and forth. So a move has to save a worthwhile share of a step, in most of the k steps
taken one by one; and it has to be unlikely that as many say so by chance (`evidence`). How often a single step says so
without cause is judged by the steps before these k, since the last move. k begins small, so that a clear change is answered
in a few steps, and grows. After several moves more certainty is asked for.

When what slowed a rank ends, the ranks are seen to be equal, and the boundary goes back by the same rules: to where the plan
had it, if that is as good. Communication that becomes slower without a slow rank is a slow link: this is said, and moves nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from types import MappingProxyType
from typing import Any

from autopar.partitioner.cuts.best_cuts import CutTask, best_cuts, rounded_cuts
from autopar.partitioner.cuts.rank_work import AxisCuts, GridCuts, RankWork, StepWork, least_seconds, loads
from autopar.runtime.grid.link_times import GridLine, slowest
from autopar.runtime.training.balance_settings import REMEMBERED, BalanceSettings
from autopar.runtime.training.evidence import doubted, medians, shown, steady
from autopar.runtime.training.work_fit import ObservedMove, corrections, misfit, seen_changes

Numbers = tuple[float, ...]
_WINDOWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, REMEMBERED)
_FITTED = 8  # moves that are learned from
_KNOWN = 2  # of them, from which on a prediction counts less by what it has been wrong by
_LEAST_WHOLE = 0.02  # of a step's work, that no cut makes smaller
_ALIKE = 0.02  # speeds that differ by less have the same best cuts
_REFUSED = 0.1  # the same of a move that has been refused
_CALM = 10  # steps by which communication is known
_SAID = 8  # steps by which it is said why nothing moves
_SLOW = 0.8  # speed at which a rank's communication is thought to be slow with it
_EQUAL = 0.03  # speeds that are said to be equal
_HOME = 0.02  # what the plan's own cuts may be slower than the best by, to be taken


@dataclass(frozen=True, slots=True)
class CurrentCuts:
    """Where the boundaries are, and where they may go.

    `extents` are the rows that each axis cuts. `legal` says whether the program can be cut so.
    """

    cuts: GridCuts
    extents: tuple[tuple[int, ...], ...]
    legal: Callable[[GridCuts], bool]


@dataclass(frozen=True, slots=True)
class Move:
    """New cuts of all axes; the compute seconds of the slowest rank before (measured) and after (predicted).

    `least` is what no cuts can fall below, `speeds` those of the ranks over the fastest's, `former` the cuts before.
    """

    cuts: GridCuts
    former: GridCuts
    before: float
    after: float
    least: float
    speeds: tuple[float, ...]


def plain(move: Move) -> list[object]:
    """A move as lists and numbers, which can be sent."""
    return [move.cuts, move.former, move.before, move.after, move.least, move.speeds]


def move_of(told: list[Any]) -> Move:
    """The move that `plain` made these of, to the last bit."""
    cuts, former = (tuple(None if at is None else tuple(at) for at in axes) for axes in told[:2])
    before, after, least, speeds = told[2:]
    return Move(cuts, former, before, after, least, tuple(speeds))


@dataclass(frozen=True, slots=True)
class BalanceDecision:
    """A move, or why there is none."""

    move: Move | None
    reason: str


class Balancer:
    """What has been observed, and what follows from it. Every rank has one, and tells it the same.

    Sums, products and comparisons come out alike everywhere, logarithms and equations perhaps not: what is learned by these is
    put to `agree`, which gives what rank 0 has; and where ranks are not `calm`, rank 0's decision counts.
    """

    def __init__(
        self, step: StepWork, settings: BalanceSettings, home: GridCuts, agree: Callable[[Numbers], Numbers] = tuple
    ) -> None:
        self._agree = agree
        self.step = with_whole_work(step)
        self.settings = settings
        self.corrections = corrections(self.step, ())
        self._home = home
        self._seconds: deque[tuple[float, ...]] = deque(maxlen=REMEMBERED)
        self._wall: deque[float] = deque(maxlen=REMEMBERED)
        self._gaps: deque[tuple[float, ...]] = deque(maxlen=REMEMBERED)  # each rank's seconds over equal ones, in steps
        self._calm: list[float] = []  # seconds of communication at first
        self._links: deque[float] = deque(maxlen=REMEMBERED)
        self._lines: deque[Mapping[GridLine, float]] = deque(maxlen=_CALM)  # at first, the same by lines of the grid
        self._last_lines: deque[Mapping[GridLine, float]] = deque(maxlen=_SAID)
        self._slowest: deque[float] = deque(maxlen=_SAID)  # the slowest rank's speed over the fastest's
        self._count = 0
        self._moves: list[int] = []  # the steps after which boundaries were moved
        self._observed: deque[ObservedMove] = deque(maxlen=_FITTED)
        self._misfit = 0.0  # of the works, with what has been observed
        self._left: tuple[GridCuts, list[tuple[float, ...]]] | None = None  # cuts and seconds before the last move
        self._why = ""  # why the last move that was thought of was not made
        self._rest = settings.rest  # the first step makes buffers and communicators
        self._best: tuple[tuple[float, ...], GridCuts, str] | None = (
            None  # the best cuts for speeds, or why there are none
        )

    def observe(self, seconds: Sequence[float], wall: float, cuts: GridCuts) -> None:
        """Another step under these cuts: what every rank computed for, and what the step took."""
        self._count += 1
        if self._rest:
            self._rest -= 1
            return
        self._seconds.append(tuple(seconds))
        self._wall.append(wall)
        load = loads(self.step, self.corrections, cuts)
        speeds = speeds_of(load, seconds)
        least = least_seconds(self.step, load, speeds)
        self._slowest.append(min(speeds) / max(speeds))
        self._gaps.append(tuple((own - least) / wall if wall > 0 else 0.0 for own in seconds))

    def communicated(self, seconds: float, lines: Mapping[GridLine, float] = MappingProxyType({})) -> None:
        """The same step's seconds of communication on the rank that has waited least: no slow rank explains them.

        `lines` are those of the lines of the grid, so that it can be said whose link is slow.
        """
        if self._count > self.settings.rest:
            calm = len(self._calm) < _CALM
            (self._calm if calm else self._links).append(seconds)
            (self._lines if calm else self._last_lines).append(lines)

    def _slow_link(self) -> str:
        """What is to be said of communication that has become slower, whatever the ranks compute."""
        last = list(self._links)[-_SAID:]
        if len(last) < _SAID or median(self._slowest) < _SLOW:
            return ""  # a slow core is slow in communication too
        before, now, wall = median(self._calm), median(last), median(self._wall) if self._wall else 0.0
        more = max((now - before) / 2, self.settings.threshold * wall)
        said = [seconds > before + more for seconds in (*self._calm, *last)]
        if not shown(said, len(last), self.settings.agreement, self.settings.doubt):
            return ""
        rise = f"communication that no slow rank explains rose from {before * 1e3:.1f} to {now * 1e3:.1f}"
        where = slowest(self._lines, self._last_lines, now - before)
        return f"; {rise} ms of a step: a link is slow{where and f' {where}'}, which no boundary helps"

    def moved(self, move: Move) -> None:
        """The boundaries are where `move` has them."""
        self._left = move.former, list(self._seconds)[-self.settings.window :]
        self._moves.append(self._count)
        self._forget()

    def replan(self, step: StepWork) -> None:
        """The ranks compute something else from now on: segments have moved."""
        self.step = with_whole_work(step)
        self._observed.clear()
        self._misfit = 0.0
        self.corrections = corrections(self.step, ())
        self._left = None
        self._forget()

    def _forget(self) -> None:
        """Begin to measure anew."""
        self._seconds.clear()
        self._wall.clear()
        self._gaps.clear()
        self._rest, self._best, self._why = self.settings.rest, None, ""

    def refused(self, move: Move, why: str) -> None:
        """A move has not been made, and is not to be thought of again while the ranks are as fast as now."""
        self._best = move.speeds, move.former, why

    def partway(self, move: Move, part: float) -> Move:
        """The same move, but not as far."""
        pairs = zip(self.step.sizes, move.former, move.cuts, strict=True)
        cuts = tuple(between(size, old, new, part) for size, old, new in pairs)
        load, former = (loads(self.step, self.corrections, at) for at in (cuts, move.former))
        scale = move.before / max(f / v for f, v in zip(former, move.speeds, strict=True))
        return replace(move, cuts=cuts, after=scale * max(f / v for f, v in zip(load, move.speeds, strict=True)))

    def worth(self, move: Move, price: float) -> bool:
        """Whether a move that takes so many seconds pays."""
        return (move.before - move.after) * self.settings.horizon > price

    @property
    def calm(self) -> bool:
        """Whether the last two steps alone say that nothing is to be moved, or there are too few steps to say anything."""
        few = len(self._gaps) < self.settings.window
        return few or (len(self._gaps) > 1 and max(*self._gaps[-1], *self._gaps[-2]) <= self.settings.threshold)

    def consider(self, place: CurrentCuts) -> BalanceDecision:
        """Whether to move now."""
        self._learn(place.cuts)
        if self.calm:
            return BalanceDecision(None, self._so_far())
        load = loads(self.step, self.corrections, place.cuts)
        for count in _WINDOWS:
            if self.settings.window <= count <= len(self._gaps) and self._uneven(count):
                verdict = self._judged(count, load, place)
                self._why = verdict.reason
                if verdict.move is not None:
                    return verdict
        return BalanceDecision(None, self._so_far())

    def _so_far(self) -> str:
        """Why nothing has moved."""
        if len(self._gaps) < self.settings.window:
            return "too few steps have been measured"
        if max(medians(list(self._gaps)[-_SAID:])) <= self.settings.threshold:
            even = f"no rank is slower than the others by {self.settings.threshold:.0%} of a step for long"
            return even + self._slow_link()
        return (self._why or "too few steps have shown that a rank is slow") + self._slow_link()

    def _learn(self, cuts: GridCuts) -> None:
        """Once there are steps after a move, learn what they and those before say of the works."""
        if self._left is not None and len(self._seconds) >= self.settings.window:
            (before, old), new = self._left, list(self._seconds)
            self._left, self._best = None, None
            if steady(old) and steady(new):
                self._observed.append(ObservedMove(before, cuts, medians(old), medians(new)))
                self.corrections = self._agree(corrections(self.step, self._observed))
                if len(self._observed) >= _KNOWN:
                    self._misfit = misfit(self.step, self.corrections, self._observed)

    def _judged(self, count: int, load: Sequence[float], place: CurrentCuts) -> BalanceDecision:
        """What the last so many steps say."""
        move = self._proposed(count, load, place)
        saved, enough = move.before - move.after, self.settings.threshold * median(list(self._wall)[-count:])
        if saved <= enough:
            why = (self._best and self._best[2]) or f"no cuts save {self.settings.threshold:.0%} of a step"
            return BalanceDecision(None, f"{described(move.speeds)}; {why}")
        middle = medians(list(self._seconds)[-count:])
        after = self._elsewhere(move.cuts, middle, load, place)
        shrink = [new / old if old else 1.0 for new, old in zip(after, middle, strict=True)]
        if not self._shown([_saved(step, shrink) > max(enough, saved / 2) for step in self._seconds], count):
            return BalanceDecision(None, f"{described(move.speeds)}; too few steps have shown it")
        return BalanceDecision(move, described(move.speeds))

    def _uneven(self, count: int) -> bool:
        """Whether the last so many steps show that a rank has become slow, whatever can be done about it: this is quickly said."""
        gaps = list(self._gaps)
        middle = medians(gaps[-count:])
        rank = max(range(len(middle)), key=lambda rank: middle[rank])
        own = [gap[rank] for gap in gaps]
        before = median(own[:-count]) if len(own) - count > self.settings.window else 0.0
        return self._shown([gap > max(self.settings.threshold, (before + middle[rank]) / 2) for gap in own], count)

    def _shown(self, said: Sequence[bool], count: int) -> bool:
        """Whether most of the last so many steps speak for a move, and not by chance."""
        doubt = doubted(self.settings.doubt, self._count, self._moves)
        return shown(said, count, self.settings.agreement, doubt)

    def _proposed(self, count: int, load: Sequence[float], place: CurrentCuts) -> Move:
        """The best cuts for what the last so many steps took, or the plan's where they are as good.

        What cuts took when they were tried counts; those of which only the works speak must be better by as much as these err.
        """
        middle = medians(list(self._seconds)[-count:])
        speeds = speeds_of(load, middle)
        if self._best is None or not _alike(self._best[0], speeds, _REFUSED if self._best[2] else _ALIKE):
            task = CutTask(self.step, self.corrections, speeds, place.extents, place.legal)
            tried = [cuts for cuts in seen_changes(self._observed, place.cuts) if place.legal(cuts)]
            found = [*tried, rounded_cuts(task, best_cuts(task, place.cuts))]
            best = min(found, key=lambda cuts: self._longest(cuts, middle, load, place))
            enough = (1 + _HOME) * self._longest(best, middle, load, place)
            near = self._longest(self._home, middle, load, place) <= enough and place.legal(self._home)
            self._best = speeds, self._home if near else best, ""
        cuts, least = self._best[1], least_seconds(self.step, load, speeds)
        relative = tuple(speed / max(speeds) for speed in speeds)
        return Move(cuts, place.cuts, max(middle), self._longest(cuts, middle, load, place), least, relative)

    def _longest(self, cuts: GridCuts, seconds: Sequence[float], load: Sequence[float], place: CurrentCuts) -> float:
        """What the slowest rank would take at other cuts, having taken so many seconds here."""
        return max(self._elsewhere(cuts, seconds, load, place))

    def _elsewhere(
        self, cuts: GridCuts, seconds: Sequence[float], load: Sequence[float], place: CurrentCuts
    ) -> list[float]:
        """What each rank would take at other cuts, having taken so many seconds here."""
        seen = seen_changes(self._observed, place.cuts).get(cuts)
        if seen:
            return [time * change for time, change in zip(seconds, seen, strict=True)]
        err = 1.0 if cuts == place.cuts else 1 + self._misfit
        new, speeds = loads(self.step, self.corrections, cuts), speeds_of(load, seconds)
        return [err * work / speed for work, speed in zip(new, speeds, strict=True)]


def with_whole_work(step: StepWork) -> StepWork:
    """The works, with one that no cut makes smaller: a program's own time is not in its plan."""
    total = sum(loads(step, (1.0,) * len(step.works), (None,) * len(step.sizes))) / (step.ranks * step.positions)
    least = (_LEAST_WHOLE * total,) * step.positions
    divided = tuple(work for work in step.works if work.factors)
    whole = [max(some) for some in zip(least, *(work.seconds for work in step.works if not work.factors), strict=True)]
    return replace(step, works=(*divided, RankWork((), tuple(whole))))


def speeds_of(load: Sequence[float], seconds: Sequence[float]) -> tuple[float, ...]:
    """Work per second of every rank; of ranks without any, that of the slowest with some."""
    known = [work / time if work > 0 and time > 0 else 0.0 for work, time in zip(load, seconds, strict=True)]
    slowest = min((speed for speed in known if speed), default=1.0)
    return tuple(speed or slowest for speed in known)


def described(speeds: Sequence[float]) -> str:
    """The speeds in words.

    >>> described((1.0, 0.5))
    'rank 1 computes at 0.50 of the fastest rank'
    """
    slowest = min(range(len(speeds)), key=lambda rank: speeds[rank])
    if speeds[slowest] >= 1 - _EQUAL:
        return "the ranks are equally fast"
    return f"rank {slowest} computes at {speeds[slowest]:.2f} of the fastest rank"


def between(size: int, old: AxisCuts, new: AxisCuts, part: float) -> AxisCuts:
    """Cuts that are partly on the way from old ones to new ones.

    >>> between(2, None, (0.0, 0.75, 1.0), 0.5)
    (0.0, 0.625, 1.0)
    """
    if old == new:
        return old
    ways = zip(*(cuts or tuple(i / size for i in range(size + 1)) for cuts in (old, new)), strict=True)
    return tuple(low + (high - low) * part for low, high in ways)


def _saved(step: Sequence[float], shrink: Sequence[float]) -> float:
    """What new cuts would have saved in a step."""
    return max(step) - max(time * part for time, part in zip(step, shrink, strict=True))


def _alike(speeds: Sequence[float], others: Sequence[float], within: float) -> bool:
    """Whether speeds are about the same but for a factor of all."""
    ratios = [a / b for a, b in zip(speeds, others, strict=True)]
    return max(ratios) <= (1 + within) * min(ratios)
