"""When to move segments between positions, and where to: decisions from numbers that all ranks share.

Every segment's seconds of a step are known, waits left out: those of the rank of its position that took longest. With w_s what
the plan says that it takes on a position of speed 1, and q where it stands,

    log T_s = log w_s + x_s - y_q + noise

x_s being what is wrong with its price, and y_q the logarithm of the position's speed. One segment on one position says only the
difference; segments that share a position, and one that has moved, say more. x and y are estimated together, from what is
believed of them at first and whatever has been seen, by a Kalman filter (R. E. Kalman, Journal of Basic Engineering 82, 1960):
prices stay, and where a position is seen to have changed, its speed may be any.

A slow position is seen in few steps, and not by chance (`evidence`). Then the best segments to move are sought by simulated
schedules (`autopar.partitioner.placement.relocation`), with what the move takes counted in.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import torch

from autopar.ir.pipeline.positions import PositionLimits
from autopar.ir.pipeline.schedule import ActionLists
from autopar.partitioner.placement.problem import PlacementProblem
from autopar.partitioner.placement.relocation import SegmentMove, best_move
from autopar.runtime.training.balance_settings import REMEMBERED, BalanceSettings
from autopar.runtime.training.evidence import medians, shown

_PRICE, _SPEED = 0.3, 0.3  # how far x and y are from what the plan says
_CHANGED = 1.0  # by how much y may have changed
_NOISE = 0.03
_UNPROVOKED = 0.1  # of a step, that a move has to save where no position has changed
_MORE = 2  # windows that are waited for, after segments have moved
_ALIKE = 0.03  # speeds that have the same best move


class SegmentBalancer:
    """What has been observed of segments, and what follows from it. Every rank has one, and tells it the same."""

    def __init__(self, problem: PlacementProblem, settings: BalanceSettings) -> None:
        self.settings = settings
        self.reason = "too few steps have been measured"
        self._problem = problem
        count, positions = len(problem.calls), len(problem.positions)
        planned = [math.log(limits.speed) for limits in problem.positions]
        self._mean = torch.tensor([0.0] * count + planned, dtype=torch.float64)  # of x, then y
        self._spread = torch.diag(torch.tensor([_PRICE**2] * count + [_SPEED**2] * positions, dtype=torch.float64))
        self._count = 0
        self._moves: list[int] = []  # the steps after which segments were moved
        self._fitted = False  # since segments stand where they do
        self._steps: deque[tuple[float, ...]] = deque(maxlen=REMEMBERED)
        self._rest = settings.rest
        self._futile: tuple[float, ...] = ()  # speeds at which no move pays

    def observe(self, seconds: Sequence[float]) -> None:
        """Another step: the seconds of every segment."""
        self._count += 1
        if self._rest:
            self._rest -= 1
        elif min(seconds) > 0:
            self._steps.append(tuple(seconds))

    def moved(self) -> None:
        """Segments stand where the last move has them."""
        self._steps.clear()
        self._moves.append(self._count)
        self._rest, self._futile, self._fitted = self.settings.rest, (), False

    def refused(self, why: str) -> None:
        """A move has not been made, and is not to be thought of again while positions are as fast as now."""
        self._futile, self.reason = tuple(self._speed), why

    def consider(
        self, places: Sequence[int], lists: ActionLists, price: Callable[[float], float]
    ) -> SegmentMove | None:
        """The move to make now, if any; `price` gives the seconds of sending so many bytes."""
        settings = self.settings
        if len(self._steps) < settings.window * (1 if self._fitted else _MORE):
            return None
        changed = self._fitted and self._changed(places)
        if self._fitted and not changed:
            return None
        self._fit(list(self._steps)[-settings.window :], places, changed=changed)
        if self._futile and max(abs(a - b) for a, b in zip(self._futile, self._speed, strict=True)) < _ALIKE:
            return None
        least = settings.threshold if changed else max(settings.threshold, _UNPROVOKED)
        found = best_move(self._as_seen(), places, lists, price, settings.horizon, least)
        slowest = min(range(len(self._speed)), key=lambda q: self._speed[q])
        speed = math.exp(self._speed[slowest] - max(self._speed))
        self.reason = f"position {slowest} computes at {speed:.2f} of the fastest position"
        if found is None:
            single = len(self._problem.calls) <= len(self._problem.positions)
            way_out = "; each position has one segment: `autopar compile --segments 2` makes more" if single else ""
            self.refused(f"{self.reason}; no segments whose move saves {settings.threshold:.0%} of a step{way_out}")
        return found

    def _changed(self, places: Sequence[int]) -> bool:
        """Whether the last steps show a position's speed to have changed, by what its segments take of what was expected."""
        expected, steps, window = self._expected(places), list(self._steps), self.settings.window
        last = [_ratios(step, places, expected) for step in steps[-window:]]
        middle = medians(last)
        position = max(range(len(middle)), key=lambda q: abs(math.log(middle[q])))
        change = math.log(middle[position])
        if abs(change) < self.settings.threshold:
            return False
        ratios = [_ratios(step, places, expected) for step in steps[:-window]] + last
        said = [math.log(row[position]) * change > change * change / 2 for row in ratios]
        return shown(said, self.settings.window, self.settings.agreement, self.settings.doubt)

    def _expected(self, places: Sequence[int]) -> list[float]:
        """The seconds that every position is thought to take."""
        price, speed = self._price, self._speed
        expected = [0.0] * len(speed)
        for s, at in enumerate(places):
            expected[at] += self._work(s) * math.exp(price[s] - speed[at])
        return expected

    def _work(self, segment: int) -> float:
        call = self._problem.calls[segment]
        return max((call.forward + call.backward) * self._problem.microbatches, 1e-12)

    @property
    def _price(self) -> list[float]:
        return self._mean[: len(self._problem.calls)].tolist()

    @property
    def _speed(self) -> list[float]:
        return self._mean[len(self._problem.calls) :].tolist()

    def _fit(self, steps: Sequence[Sequence[float]], places: Sequence[int], *, changed: bool) -> None:
        """Take in what segments took where they stand."""
        count = len(places)
        rows, seen = torch.zeros(count, len(self._mean), dtype=torch.float64), []
        for s, seconds in enumerate(_typical(steps, places)):
            rows[s, s], rows[s, count + places[s]] = 1.0, -1.0
            seen.append(math.log(seconds / self._work(s)))
        if changed:
            self._spread[count:, count:] += _CHANGED**2 * torch.eye(len(self._mean) - count, dtype=torch.float64)
        noise = _NOISE**2 * torch.eye(count, dtype=torch.float64)
        gain = torch.linalg.solve(rows @ self._spread @ rows.T + noise, rows @ self._spread).T
        self._mean = self._mean + gain @ (torch.tensor(seen, dtype=torch.float64) - rows @ self._mean)
        self._spread = self._spread - gain @ rows @ self._spread
        self._fitted = True

    def _as_seen(self) -> PlacementProblem:
        """The problem with prices and speeds as they have turned out."""
        calls = [
            replace(call, forward=call.forward * scale, backward=call.backward * scale, weight=call.weight * scale)
            for call, scale in zip(self._problem.calls, map(math.exp, self._price), strict=True)
        ]
        positions = [
            PositionLimits(math.exp(speed), limits.memory)
            for limits, speed in zip(self._problem.positions, self._speed, strict=True)
        ]
        return replace(self._problem, calls=tuple(calls), positions=tuple(positions))


def _ratios(step: Sequence[float], places: Sequence[int], expected: Sequence[float]) -> list[float]:
    """What the segments of every position took of what is expected; 1 where there are none."""
    took = [0.0] * len(expected)
    for seconds, at in zip(step, places, strict=True):
        took[at] += seconds
    return [own / one if one else 1.0 for own, one in zip(took, expected, strict=True)]


def _typical(steps: Sequence[Sequence[float]], places: Sequence[int]) -> list[float]:
    """What each segment takes in a step, such that those of a position add up to what the position takes.

    A core that is shared is given away for milliseconds at a time, to the loss of a segment here and another there, which the
    median of each by itself does not see.
    """
    found = [median(step[s] for step in steps) for s in range(len(places))]
    for position in set(places):
        here = [s for s, at in enumerate(places) if at == position]
        scale = median(sum(step[s] for s in here) for step in steps) / sum(found[s] for s in here)
        for s in here:
            found[s] *= scale
    return found
