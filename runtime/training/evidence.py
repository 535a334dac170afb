"""Whether steps that speak for a move do so by chance: pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

_CALM, _STEPS = 0.1, 5.0  # how often a step speaks for a move without cause, as if it had been seen in so many steps

_FREE, _STEPS_BETWEEN = 2, 64  # moves in so many steps that ask for no more certainty
_STEADY = 1.35  # the longest of a few steps over the shortest


def medians(seconds: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The median of every rank's seconds over some steps.

    >>> medians([(1.0, 2.0), (9.0, 2.5), (2.0, 3.0)])
    (2.0, 2.5)
    """
    return tuple(median(column) for column in zip(*seconds, strict=True))


def steady(seconds: Sequence[Sequence[float]]) -> bool:
    """Whether no rank became faster or slower during some steps.

    >>> steady([(1.0, 2.0), (1.1, 2.1)]), steady([(1.0, 2.0), (1.0, 4.0)])
    (True, False)
    """
    return all(max(column) <= _STEADY * min(column) for column in zip(*seconds, strict=True))


def without_cause(saying: int, steps: int) -> float:
    """How often a step speaks for a move without cause, from how many of some steps did before there was one.

    The mean of a beta distribution: at first, one of ten.
    """
    return (_CALM * _STEPS + saying) / (_STEPS + steps)


def by_chance(steps: int, saying: int, often: float) -> float:
    """The probability that at least so many of some steps speak for a move, each doing so with probability `often`.

    >>> by_chance(3, 3, 0.1) < 0.0011, by_chance(2, 1, 0.5)
    (True, 0.75)
    """
    return sum(math.comb(steps, n) * often**n * (1 - often) ** (steps - n) for n in range(saying, steps + 1))


def shown(said: Sequence[bool], count: int, agreement: float, doubt: float) -> bool:
    """Whether most of the last so many steps say something, and not by chance, by how often the steps before them do."""
    earlier, last = said[:-count], sum(said[-count:])
    return last >= agreement * count and by_chance(count, last, without_cause(sum(earlier), len(earlier))) <= doubt


def doubted(doubt: float, step: int, moves: Sequence[int]) -> float:
    """What may happen by chance: of several moves that were made lately, each further one divides it by ten.

    >>> doubted(1e-3, 100, [1, 50, 60]), round(doubted(1e-3, 100, [50, 60, 70, 80]), 9)
    (0.001, 1e-05)
    """
    recent = sum(step - at < _STEPS_BETWEEN for at in moves)
    return doubt * 10.0 ** -max(0, recent - _FREE)
