"""Where to cut an axis, from how long the ranks took: pure functions of numbers that all ranks share.

Let position i of an axis hold r_i of the n rows that are split over it, and let T_i be the compute seconds of a step
there, the longest over the ranks at that position. Its speed is v_i = r_i / T_i rows per second. With rows r' the
step is predicted to compute for

    max_i r'_i / v_i        at best  n / sum_i v_i  (all positions finish together)

`allot` finds the integers that minimise this. A move pays if it saves, over the horizon, more than it costs, and if
it saves a worthwhile share of a step, lest noise move boundaries back and forth. Work that does not shrink with the
rows makes the prediction too bold, so the boundary approaches its place in two or three moves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from autopar.errors import ConfigError, refusal


@dataclass(frozen=True, slots=True)
class Settings:
    """When to move: measure `window` steps, beginning `rest` steps after a move; `threshold` is a share of a step."""

    window: int = 4
    rest: int = 1
    horizon: int = 200
    threshold: float = 0.05

    def __post_init__(self) -> None:
        if self.window < 1 or self.rest < 0 or self.horizon < 1 or self.threshold < 0:
            rule = "window and horizon are at least 1, rest and threshold at least 0"
            raise ConfigError(refusal("rebalancing", f"cannot work with {self}", rule))


@dataclass(frozen=True, slots=True)
class Movable:
    """An axis whose boundaries may move: its place in the grid, its bounds on each extent that is split over it."""

    axis: int
    bounds: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Move:
    """New cuts for an axis, and the compute seconds per step before (measured) and after (predicted)."""

    axis: int
    cuts: tuple[float, ...]
    before: float
    after: float


def decide(
    sizes: Sequence[int],
    axes: Sequence[Movable],
    seconds: Sequence[float],
    step: float,
    cost: float,
    settings: Settings,
) -> Move | None:
    """The move that saves most, if it pays.

    `sizes` are the grid's, `seconds` the compute seconds of a step of every rank, `step` the wall seconds of a step,
    `cost` what a move costs in seconds.
    """
    moves = [move for axis in axes if (move := propose(sizes, axis, seconds)) is not None]
    best = min(moves, key=lambda move: (move.after - move.before, move.axis), default=None)
    if best is None:
        return None
    saved = best.before - best.after
    return best if saved * settings.horizon > cost and saved > settings.threshold * step else None


def propose(sizes: Sequence[int], movable: Movable, seconds: Sequence[float]) -> Move | None:
    """The best cuts of one axis, or None where they are what they are."""
    times = position_times(sizes, movable.axis, seconds)
    finest = max(movable.bounds, key=lambda bounds: bounds[-1])
    held = [high - low for low, high in pairwise(finest)]
    least = _least(movable.bounds, held)
    speeds = [rows / time if rows and time > 0 else 0.0 for rows, time in zip(held, times, strict=True)]
    if finest[-1] == 0 or any(rows and not speed for rows, speed in zip(held, speeds, strict=True)):
        return None
    rows = allot(finest[-1], speeds, least)
    if rows == held:
        return None
    ends = [sum(rows[: i + 1]) / finest[-1] for i in range(len(rows))]
    after = max(one / speed for one, speed in zip(rows, speeds, strict=True) if speed)
    return Move(movable.axis, (0.0, *ends[:-1], 1.0), max(times), after)


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


def _least(every: Sequence[tuple[int, ...]], held: Sequence[int]) -> list[int]:
    """Rows of the finest extent without which a position would lose its last row of some extent where it has one now.

    A share of at least 1/m leaves a row of an extent m, wherever the boundaries are rounded.
    """
    finest = max(bounds[-1] for bounds in every)
    least = []
    for i in range(len(held)):
        own = [finest // -bounds[-1] * -1 for bounds in every if bounds[i + 1] > bounds[i]]
        least.append(min(held[i], max(own, default=0)))
    return least
