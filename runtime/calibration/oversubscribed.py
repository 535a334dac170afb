"""By how much ranks that share cores come later for a call, as loops with it and without it tell.

Where more ranks than cores wait for one another, the time from a call's begin to its end says little: another rank has the core
meanwhile and does its own work, which is not lost, and a rank that has met the others at a barrier may have to wait for a
core before it can begin. What counts in a step is how much longer all of it takes. So

    seconds = (a loop of work and the call - a loop of the work alone) / laps

from the moment at which all ranks begin until the slowest has ended. The work clears the caches, as `stopwatch` does it for
calls that are timed one by one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from autopar.runtime.calibration.stopwatch import Watch, begin, end
from autopar.runtime.calibration.timer import Call, Pace
from autopar.runtime.transport.base import Comm

_LAPS = 6
_LONG = 0.03  # seconds of a loop after which there are no more laps
_REPEATS = 6
_FEW = 2  # repeats of loops of one lap
_WORK = 4  # part of what clears the caches of a core on its own: the other ranks clear them as well
_LEAST = 1e-6  # seconds; the difference of two loops can come out as nothing


class OversubscribedTimer:
    """What `BarrierTimer` is for ranks with a core each: they time the same calls, and the slowest rank counts."""

    def __init__(self, world: Comm, pace: Pace) -> None:
        self.world = world
        self.pace = pace
        self._watch = Watch(pace.cleared // _WORK)

    def time(self, call: Call) -> tuple[float, ...]:
        """Seconds that the call adds, once per repeat. Collective; alike on all ranks."""

        def lap() -> None:
            self._watch.start()
            call()

        return self._added(lap, self._watch.start)

    def adjoint(self, function: Callable[..., Tensor], *operands: Tensor) -> tuple[float, ...]:
        """Seconds that backward through the function of these operands adds. Collective; alike on all ranks."""
        lap, y = self._backward(function, *operands)
        without, _ = self._backward(lambda x: x, torch.ones_like(y).requires_grad_())
        return self._added(lap, without)

    def _backward(self, function: Callable[..., Tensor], *operands: Tensor) -> tuple[Call, Tensor]:
        (y,) = begin(self._watch, function(*end(self._watch, *operands)))
        grad = torch.ones_like(y)
        return (lambda: torch.autograd.grad(y, operands, grad, retain_graph=True)), y.detach()

    def _added(self, lap: Call, without: Call) -> tuple[float, ...]:
        lap()
        laps = min(_LAPS, math.ceil(_LONG / max(_LEAST, self._loop(lap, 1))))
        repeats = min(_REPEATS if laps > 1 else _FEW, self.pace.repeats)
        pairs = [(self._loop(lap, laps), self._loop(without, laps)) for _ in range(repeats)]
        self._watch.taken()
        return tuple(max(_LEAST, much - little) for much, little in pairs)

    def _loop(self, lap: Call, laps: int) -> float:
        """Seconds of a lap, on the slowest rank."""
        self.world.barrier()
        start = time.perf_counter()
        for _ in range(laps):
            lap()
        taken: list[float] = self.world.gather_objects(time.perf_counter() - start)  # type: ignore[assignment]
        return max(taken) / laps
