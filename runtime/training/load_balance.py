"""Where to cut an axis, from how long the ranks took: pure functions of numbers that all ranks share.

Let position i of an axis hold r_i of the n rows that are split over it, and let T_i be the compute seconds of a step
there, the longest over the ranks at that position. Its speed is v_i = r_i / T_i rows per second. With rows r' the
step is predicted to compute for

    max_i r'_i / v_i        at best  n / sum_i v_i  (all positions finish together)

`allot` finds the integers that minimise this, T_i being the median over a window of steps. A move pays if it saves,
over the horizon, more than it costs. Work that does not shrink with the rows makes the prediction too bold, so the
boundary approaches its place in two or three moves.

Noise must not move a boundary back and forth. So a move has to save a worthwhile share of a step; it has to save as
much in most of the window's steps, taken one by one, which a few slow steps cannot feign; and `patience` makes the next
window twice as long after a move, half as long after a window without one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from autopar.errors import ConfigError, refusal


@dataclass(frozen=True, slots=True)
class BalanceSettings:
    """When to move: measure `window` steps, beginning `rest` steps after a move, and up to `longest` after several moves.

    `threshold` is the least saving, as a share of a step, and `agreement` the share of the window's steps that must save it.
    """

    window: int = 5
    rest: int = 1
    horizon: int = 200
    threshold: float = 0.05
    agreement: float = 0.8
    longest: int = 64

    def __post_init__(self) -> None:
        windows = 1 <= self.window <= self.longest and self.rest >= 0 and self.horizon >= 1
        if not (windows and self.threshold >= 0 and 0 <= self.agreement <= 1):
            rule = "window and horizon are at least 1, rest and threshold at least 0, longest at least window, agreement 0 to 1"
            raise ConfigError(refusal("rebalancing", f"cannot work with {self}", rule))


@dataclass(frozen=True, slots=True)
class Movable:
    """An axis whose boundaries may move: its place in the grid, its bounds on each extent that is split over it.

    `share` is the least share of the axis that a position needs, for operators that must not be given an empty part.
    """

    axis: int
    bounds: tuple[tuple[int, ...], ...]
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Move:
    """New cuts for an axis, and the compute seconds per step before (measured) and after (predicted)."""

    axis: int
    cuts: tuple[float, ...]
    before: float
    after: float


def patience(window: int, moved: bool, settings: BalanceSettings) -> int:
    """How many steps to measure next, after a window that ended in a move or not."""
    return min(2 * window, settings.longest) if moved else max(window // 2, settings.window)


def decide(
    sizes: Sequence[int],
    axes: Sequence[Movable],
    seconds: Sequence[Sequence[float]],
    step: float,
    cost: float,
    settings: BalanceSettings,
) -> Move | None:
    """The move that saves most, if it pays.

    `sizes` are the grid's, `seconds` per step of the window the compute seconds of every rank, `step` the wall seconds of
    a step, `cost` what a move costs in seconds.
    """
    middle = [median(column) for column in zip(*seconds, strict=True)]
    proposed = [(axis, move) for axis in axes if (move := propose(sizes, axis, middle)) is not None]
    if not proposed:
        return None
    axis, best = min(proposed, key=lambda pair: (pair[1].after - pair[1].before, pair[1].axis))
    saved, enough = best.before - best.after, settings.threshold * step
    if saved * settings.horizon <= cost or saved <= enough:
        return None
    agreeing = sum(saving > enough for saving in _savings(sizes, axis, best, seconds))
    return best if agreeing >= settings.agreement * len(seconds) else None


def propose(sizes: Sequence[int], movable: Movable, seconds: Sequence[float]) -> Move | None:
    """The best cuts of one axis, or None where they are what they are."""
    times = position_times(sizes, movable.axis, seconds)
    held = _held(movable)
    total = sum(held)
    least = _least(movable, held)
    speeds = [rows / time if rows and time > 0 else 0.0 for rows, time in zip(held, times, strict=True)]
    if total == 0 or any(rows and not speed for rows, speed in zip(held, speeds, strict=True)):
        return None
    rows = allot(total, speeds, least)
    if rows == held:
        return None
    ends = [sum(rows[: i + 1]) / total for i in range(len(rows))]
    after = max(n / speed for n, speed in zip(rows, speeds, strict=True) if speed)
    return Move(movable.axis, (0.0, *ends[:-1], 1.0), max(times), after)


def _held(movable: Movable) -> list[int]:
    """The rows of each position, of the largest extent that is split."""
    finest = max(movable.bounds, key=lambda bounds: bounds[-1])
    return [high - low for low, high in pairwise(finest)]


def _savings(sizes: Sequence[int], movable: Movable, move: Move, seconds: Sequence[Sequence[float]]) -> list[float]:
    """What the move would have saved in each step of the window."""
    held = _held(movable)
    shares = [
        (high - low) * sum(held) / rows if rows else 0.0
        for (low, high), rows in zip(pairwise(move.cuts), held, strict=True)
    ]
    every = [position_times(sizes, move.axis, step) for step in seconds]
    return [max(times) - max(time * share for time, share in zip(times, shares, strict=True)) for times in every]


def position_times(sizes: Sequence[int], axis: int, seconds: Sequence[float]) -> list[float]:
    """The longest time at each position of an axis; ranks are in row-major order.

    >>> position_times((2, 2), 1, [1.0, 2.0, 4.0, 3.0])
    [4.0, 3.0]
    """
    stride = math.prod(sizes[axis + 1 :])
    times = [0.0] * sizes[axis]
    for rank, time in enumerate(seconds):
        at = rank // stride % sizes[axis]
        times[at] = max(times[at], time)
    return times


def allot(total: int, speeds: Sequence[float], least: Sequence[int]) -> list[int]:
    """Integers that sum to `total`, at least `least`, with the smallest ``max rows / speed``; 0 where the speed is.

    >>> allot(9, [2.0, 1.0], [1, 1])
    [6, 3]
    """
    everything = sum(speeds)
    rows = [max(low, math.floor(total * speed / everything)) for speed, low in zip(speeds, least, strict=True)]
    able = [i for i, speed in enumerate(speeds) if speed]
    while sum(rows) > total:
        rows[max((i for i in able if rows[i] > least[i]), key=lambda i: (rows[i] / speeds[i], i))] -= 1
    while sum(rows) < total:
        rows[min(able, key=lambda i: ((rows[i] + 1) / speeds[i], i))] += 1
    return rows


def _least(movable: Movable, held: Sequence[int]) -> list[int]:
    """Rows of the finest extent without which a position would lose its last row of some extent where it has one now.

    A share of at least 1/m leaves a row of an extent m, wherever the boundaries are rounded.
    """
    every = movable.bounds
    finest = max(bounds[-1] for bounds in every)
    needed = math.ceil(movable.share * finest)
    least = []
    for i in range(len(held)):
        own = [finest // -bounds[-1] * -1 for bounds in every if bounds[i + 1] > bounds[i]]
        least.append(min(held[i], max([needed, *own])))
    return least
