"""How often, and for how long, something else stops a rank that computes: another program, the system, a virtual machine's host.

All ranks make a short call over and over. One that takes much longer than most was stopped in between; what it took longer is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from autopar.runtime.calibration.timer import QUICK, Pace
from autopar.runtime.transport.base import Comm

_SECONDS = 3.0  # for which ranks are watched
_WIDE = 128  # rows of a matrix whose square takes some 50 microseconds
_LONGER = 2e-3  # seconds from which on it is no mere jitter


def stopped(world: Comm, pace: Pace, tell: Callable[[str], None]) -> tuple[tuple[float, float, float], ...]:
    """Of every rank the seconds for which it computed, how often it was stopped, and the seconds that this took. Collective.

    Nothing of a quick trial, which is too short to tell.
    """
    if pace == QUICK:
        return ()
    tell("stalls")
    square, taken = torch.ones(_WIDE, _WIDE), list[float]()
    world.barrier()
    end = time.perf_counter() + _SECONDS
    last = time.perf_counter()
    while last < end:
        square @ square
        now = time.perf_counter()
        taken.append(now - last)
        last = now
    every: list[list[float]] = world.gather_objects(list(stalls_among(taken)))  # type: ignore[assignment]
    return tuple((computed, count, lost) for computed, count, lost in every)


def stalls_among(taken: Sequence[float]) -> tuple[float, float, float]:
    """Of calls that took so many seconds: those of computing, how many were stopped, and what they took longer for it.

    >>> stalls_among([0.5, 0.5, 0.75, 0.5, 0.5])
    (2.5, 1, 0.25)
    """
    usual = median(taken)
    late = [one - usual for one in taken if one - usual > _LONGER]
    return sum(taken) - sum(late), len(late), sum(late)
