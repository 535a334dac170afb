"""A stop-watch for all ranks at once: how long a call takes on the slowest rank, several times over.

A short call is repeated until a block of calls takes a few milliseconds, so that neither the clock nor the barrier
before the block counts for much.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from autopar.runtime.transport.base import Comm

Call = Callable[[], object]
_MOST_CALLS = 400
_LONG = 0.05  # seconds of one call from which on few repeats must do
_FEW = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured: `repeats` blocks of at least `block` seconds, tensors of up to `most` bytes."""

    repeats: int = 9
    block: float = 4e-3
    most: int = 16 << 20


QUICK = Pace(repeats=3, block=2e-4, most=64 << 10)


def timed(world: Comm, call: Call, pace: Pace) -> tuple[float, ...]:
    """Seconds of one call, once per repeat; all ranks of `world` do the same, and the slowest counts."""
    call()
    (once,) = _blocks(world, call, 1, 1)
    count = max(1, min(_MOST_CALLS, int(pace.block / max(once, 1e-9))))
    return _blocks(world, call, count, min(pace.repeats, _FEW) if once > _LONG else pace.repeats)


def _blocks(world: Comm, call: Call, count: int, repeats: int) -> tuple[float, ...]:
    mine = []
    for _ in range(repeats):
        world.barrier()
        start = time.perf_counter()
        for _ in range(count):
            call()
        mine.append((time.perf_counter() - start) / count)
    everybody: list[list[float]] = world.gather_objects(mine)  # type: ignore[assignment]  # what each has just given
    return tuple(max(column) for column in zip(*everybody, strict=True))
