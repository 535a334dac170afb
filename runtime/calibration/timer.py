"""How long a call takes on the slowest rank within a training step, several times over.

All ranks clear their caches, meet at a barrier, and make the call (`autopar.runtime.calibration.stopwatch`). Where repeats
differ, somebody else was at work: they are made again, twice at most, and those that differ least are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from autopar.ir.calibration_data import spread
from autopar.runtime.calibration.stopwatch import CLEARED, Watch, begin, end
from autopar.runtime.transport.base import Comm

Call = Callable[[], object]
_LONG = 0.05  # seconds of one call from which on few repeats must do
_FEW = 3
_TRIES = 3
_CALM = 0.15  # the spread of repeats that are believed at once


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured: `repeats` of every call, each behind a copy of `cleared` bytes, on tensors of up to `most` bytes.

    Calls whose repeats differ are measured again, until that has taken `patience` seconds in all.
    """

    repeats: int = 12
    cleared: int = CLEARED
    most: int = 16 << 20
    patience: float = 5.0


QUICK = Pace(repeats=3, cleared=1 << 20, most=64 << 10, patience=0.0)


class Timer(Protocol):
    """What measurements ask of a timer: seconds once per repeat, alike on all ranks of `world`, which call it together."""

    world: Comm
    pace: Pace

    def time(self, call: Call) -> tuple[float, ...]:
        """Of the call."""

    def adjoint(self, function: Callable[..., Tensor], *operands: Tensor) -> tuple[float, ...]:
        """Of backward through the function of these operands."""


class BarrierTimer:
    """A stop-watch that all ranks of `world` hold: they time the same calls, and the slowest rank counts."""

    def __init__(self, world: Comm, pace: Pace) -> None:
        self.world = world
        self.pace = pace
        self._patience = pace.patience
        self._watch = Watch(pace.cleared, world.barrier)

    def time(self, call: Call) -> tuple[float, ...]:
        """Seconds of the call, once per repeat. Collective; alike on all ranks."""

        def lap() -> None:
            self._watch.start()
            call()
            self._watch.stop()

        return self._timed(lap)

    def adjoint(self, function: Callable[..., Tensor], *operands: Tensor) -> tuple[float, ...]:
        """Seconds of backward through the function of these operands, once per repeat. Collective; alike on all ranks."""
        (y,) = begin(self._watch, function(*end(self._watch, *operands)))
        grad = torch.ones_like(y)
        return self._timed(lambda: torch.autograd.grad(y, operands, grad, retain_graph=True))

    def _timed(self, lap: Call) -> tuple[float, ...]:
        lap()
        self._laps()
        lap()
        (once,) = self._laps()
        repeats = min(self.pace.repeats, _FEW) if once > _LONG else self.pace.repeats
        tries = [self._repeated(lap, repeats)[1]]
        while spread(tries[-1]) > _CALM and len(tries) < _TRIES and self._patience > 0:
            taken, laps = self._repeated(lap, repeats)
            self._patience -= taken
            tries.append(laps)
        return min(tries, key=spread)

    def _repeated(self, lap: Call, repeats: int) -> tuple[float, tuple[float, ...]]:
        """Seconds of all of it, caches cleared included, and of every lap."""
        start = time.perf_counter()
        for _ in range(repeats):
            lap()
        (taken,) = self._slowest([time.perf_counter() - start])
        return taken, self._laps()

    def _laps(self) -> tuple[float, ...]:
        return self._slowest(self._watch.taken())

    def _slowest(self, mine: list[float]) -> tuple[float, ...]:
        """What each rank has, on the slowest. Collective."""
        everybody: list[list[float]] = self.world.gather_objects(mine)  # type: ignore[assignment]  # what each has given
        return tuple(max(column) for column in zip(*everybody, strict=True))
