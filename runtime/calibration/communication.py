"""How long data take to move: every primitive of the conversion table, forward and adjoint, halos and sums of gradients.

All of it goes through the functions that programs call, on an axis of a live grid, so that autograd's part and packing
are in what is measured. Tensors are cut along their second dim: parts do not lie in one piece, as most do not in a model.

What is sent is measured between the ranks of one node and between nodes alike, on groups that lie in one node or have one
rank in each; all groups work at the same time. What stays in a rank's memory is measured once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from autopar.ir.bucketing import BUCKET_BYTES
from autopar.ir.calibration_data import TimedMove
from autopar.ir.conversions import PRIMITIVES
from autopar.ir.layout import Shard
from autopar.ir.machine import LINK_MOVES, LOCAL_MOVES
from autopar.runtime.calibration.timer import Call, Timer
from autopar.runtime.grid.grid import Axis
from autopar.runtime.primitives.conversion_table import CONVERSIONS, SHARD, conversion
from autopar.runtime.primitives.halo import halo

_LEAST = 64
_TOO_LONG = 0.05  # seconds of a call after which no larger ones are tried


@dataclass(frozen=True, slots=True)
class _Setup:
    """What to call for one size, and how many bytes the tensor has before and after; `close` gives memory back.

    The adjoint is that of a function at a tensor.
    """

    forward: Call
    adjoint: tuple[Callable[[Tensor], Tensor], Tensor] | None
    before: int
    after: int
    close: Call = lambda: None


def _directions(moves: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Of every primitive the directions, forward and adjoint, in which its data move in one of these ways."""
    each = {name: zip(("forward", "adjoint"), row.moves, strict=True) for name, row in PRIMITIVES.items()}
    chosen = {name: tuple(direction for direction, move in pairs if move in moves) for name, pairs in each.items()}
    return {name: directions for name, directions in chosen.items() if directions}


_ENDS = {function.__name__: (before, after) for function, before, after in CONVERSIONS}
_SENT = _directions(LINK_MOVES) | {
    "halo": ("forward", "adjoint"),
    "gradient_sum": ("forward",),
    "message": ("forward",),
}
# The adjoint of gather, which only other ranks can lead to, is the forward of split.
_KEPT = {name: moves for name, moves in _directions(LOCAL_MOVES).items() if "forward" not in _SENT.get(name, ())}


def sent(clock: Timer, axis: Axis, place: str, tell: Callable[[str], None]) -> Iterator[TimedMove]:
    """Everything that sends something over the axis. Collective over the clock's ranks, all on axes of one size."""
    for primitive, directions in _SENT.items():
        tell(f"{primitive}, {place}")
        yield from _moved(clock, axis, primitive, directions, place)


def kept(clock: Timer, axis: Axis, tell: Callable[[str], None]) -> Iterator[TimedMove]:
    """Everything that stays in a rank's memory. Collective over the clock's ranks; nothing goes over the axis.

    Rank 0 of the axis must not be alone in this: it has less to do than the others.
    """
    for primitive, directions in _KEPT.items():
        tell(f"{primitive}, local")
        yield from _moved(clock, axis, primitive, directions, "local")


def _moved(clock: Timer, axis: Axis, primitive: str, directions: Collection[str], place: str) -> Iterator[TimedMove]:
    chosen = set(directions)
    for nbytes in _sizes(clock.pace.most):
        setup = _SETUPS[primitive](axis, nbytes) if primitive in _SETUPS else _conversion(primitive, axis, nbytes)
        for direction, seconds in _timed(clock, setup, chosen):
            if median(seconds) > _TOO_LONG:
                chosen.discard(direction)
            yield TimedMove(primitive, direction, place, axis.size, setup.before, setup.after, seconds)
        setup.close()


def _timed(clock: Timer, setup: _Setup, directions: Collection[str]) -> Iterator[tuple[str, tuple[float, ...]]]:
    if "forward" in directions:
        yield "forward", clock.time(setup.forward)
    if setup.adjoint is not None and "adjoint" in directions:
        yield "adjoint", clock.adjoint(*setup.adjoint)


def _sizes(most: int) -> list[int]:
    return [_LEAST * 4**i for i in range(int(math.log(most / _LEAST, 4)) + 1)]


def _ones(*shape: int) -> Tensor:
    return torch.ones(shape, requires_grad=True)


def _conversion(primitive: str, axis: Axis, nbytes: int) -> _Setup:
    """A whole of about so many bytes in rows and columns, of which the axis cuts the columns evenly, or a rank's part of it."""
    before, after = _ENDS[primitive]
    numel = max(nbytes // 4, axis.size)
    rows = min(1024, 1 << max(0, (int(math.log2(numel)) - 1) // 2))
    part = -(-numel // rows // axis.size)
    if before == after:
        x, after, extent = _ones(rows, part * axis.size), Shard(1), rows * axis.size
    else:
        x, extent = _ones(rows, part if before == SHARD else part * axis.size), part * axis.size
        before, after = (Shard(1) if layout == SHARD else layout for layout in (before, after))
    function = conversion(axis, before, after, extent)
    return _Setup(lambda: function(x), (function, x), x.nbytes, function(x).nbytes)


def _halo(axis: Axis, nbytes: int) -> _Setup:
    """Every rank has two rows, and wants one more on each side."""
    sides = min(2, axis.size - 1)
    x = _ones(4, 2, max(1, nbytes // 16 // sides))
    bounds = axis.bounds(2 * axis.size)
    windows = [(max(low - 1, 0), min(high + 1, bounds[-1])) for low, high in pairwise(bounds)]
    size = x.nbytes // 2 * sides

    def rows(x: Tensor) -> Tensor:
        return halo(x, 1, axis, bounds[-1], windows)

    return _Setup(lambda: rows(x), (rows, x), size, size)


def _gradients(axis: Axis, nbytes: int) -> _Setup:
    """Gradients are copied into buckets where sums go fastest, and all buckets are summed."""
    count, numel = max(1, nbytes // BUCKET_BYTES), max(1, min(nbytes, BUCKET_BYTES) // 4)
    grads = [torch.ones(numel) for _ in range(count)]
    buckets = [axis.comm.empty(numel, torch.float32).zero_() for _ in range(count)]

    def forward() -> None:
        works = []
        for grad, bucket in zip(grads, buckets, strict=True):
            bucket.copy_(grad)
            works.append(axis.comm.start_all_reduce(bucket))
        for work in works:
            work.wait()

    def close() -> None:
        for bucket in buckets:
            axis.comm.release(bucket)

    return _Setup(forward, None, 4 * numel * count, 4 * numel * count, close)


def _message(axis: Axis, nbytes: int) -> _Setup:
    """Pairs of ranks exchange messages, both ways at once; the last rank of an odd number looks on."""
    other = axis.index ^ 1
    send, recv = torch.ones(max(1, nbytes // 4)), torch.empty(max(1, nbytes // 4))
    pair = {other: send} if other < axis.size else {}
    back = {other: recv} if other < axis.size else {}
    return _Setup(lambda: axis.comm.exchange(pair, back), None, send.nbytes, recv.nbytes)


_SETUPS: dict[str, Callable[[Axis, int], _Setup]] = {"halo": _halo, "gradient_sum": _gradients, "message": _message}
