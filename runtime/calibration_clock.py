"""A stop-watch for all ranks at once: how long a call takes on the slowest rank, several times over.

A short call is repeated until a block of calls takes a few milliseconds, so that neither the clock nor the barrier
before the block counts for much. Where repeats differ, somebody else was at work: they are made again, twice at most, and
those that differ least are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from autopar.measurements import spread
from autopar.runtime.transport.base import Comm

Call = Callable[[], object]
_MOST_CALLS = 400
_LONG = 0.05  # seconds of one call from which on few repeats must do
_FEW = 3
_TRIES = 3
_CALM = 0.15  # the spread of repeats that are believed at once


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured: `repeats` blocks of at least `block` seconds, tensors of up to `most` bytes.

    Calls whose repeats differ are measured again for `patience` seconds in all.
    """

    repeats: int = 7
    block: float = 4e-3
    most: int = 16 << 20
    patience: float = 5.0


QUICK = Pace(repeats=3, block=2e-4, most=64 << 10, patience=0.0)


class Clock:
    """A stop-watch that all ranks of `world` hold: they time the same calls, and the slowest rank counts."""

    def __init__(self, world: Comm, pace: Pace) -> None:
        self.world = world
        self.pace = pace
        self._patience = pace.patience

    def time(self, call: Call) -> tuple[float, ...]:
        """Seconds of one call, once per repeat. Collective; alike on all ranks."""
        call()
        (once,) = self._blocks(call, 1, 1)
        count = max(1, min(_MOST_CALLS, int(self.pace.block / max(once, 1e-9))))
        repeats = min(self.pace.repeats, _FEW) if once > _LONG else self.pace.repeats
        tries = [self._blocks(call, count, repeats)]
        while spread(tries[-1]) > _CALM and len(tries) < _TRIES and self._patience > 0:
            tries.append(self._blocks(call, count, repeats))
            self._patience -= sum(tries[-1]) * count
        return min(tries, key=spread)

    def _blocks(self, call: Call, count: int, repeats: int) -> tuple[float, ...]:
        mine = []
        for _ in range(repeats):
            self.world.barrier()
            start = time.perf_counter()
            for _ in range(count):
                call()
            mine.append((time.perf_counter() - start) / count)
        everybody: list[list[float]] = self.world.gather_objects(mine)  # type: ignore[assignment]  # what each has given
        return tuple(max(column) for column in zip(*everybody, strict=True))
