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
from autopar.ir.layout import Shard
from autopar.runtime.calibration.timer import Call, Timer
from autopar.runtime.grid.grid import Axis
from autopar.runtime.primitives.all_gather import all_gather
from autopar.runtime.primitives.all_sum import all_sum
from autopar.runtime.primitives.all_to_all import all_to_all
from autopar.runtime.primitives.copy import copy
from autopar.runtime.primitives.count_once import once
from autopar.runtime.primitives.gather import gather
from autopar.runtime.primitives.halo import halo
from autopar.runtime.primitives.keep_first import keep
from autopar.runtime.primitives.reduce_scatter import reduce_scatter
from autopar.runtime.primitives.slice_copied import take
from autopar.runtime.primitives.split import split
from autopar.runtime.primitives.zero_fill import zero_fill

_LEAST = 64
_TOO_LONG = 0.05  # seconds of a call after which no larger ones are tried


@dataclass(frozen=True, slots=True)
class _Setup:
    """What to call for one size, and how many bytes the tensor has before and after; `close` gives memory back.

    The adjoint is that of a function at a tensor.
    """

    forward: Call | None
    adjoint: tuple[Callable[[Tensor], Tensor], Tensor] | None
    before: int
    after: int
    close: Call = lambda: None


# What is measured on which tensor: the whole, this rank's part of it, or rows that neighbours want.
_TABLE: dict[str, Callable[[Axis, int], _Setup]] = {
    "split": lambda axis, n: _conversion(lambda x: split(x, 1, axis), _whole(axis, n), "both"),
    "take": lambda axis, n: _conversion(lambda x: take(x, 1, axis), _whole(axis, n), "both"),
    "keep": lambda axis, n: _conversion(lambda x: keep(x, axis), _whole(axis, n), "forward"),
    "once": lambda axis, n: _conversion(lambda x: once(x, axis), _whole(axis, n), "adjoint"),
    "copy": lambda axis, n: _conversion(lambda x: copy(x, axis), _whole(axis, n), "adjoint"),
    "all_sum": lambda axis, n: _conversion(lambda x: all_sum(x, axis), _whole(axis, n), "forward"),
    "reduce_scatter": lambda axis, n: _conversion(lambda x: reduce_scatter(x, 1, axis), _whole(axis, n), "both"),
    "gather": lambda axis, n: _conversion(lambda x: gather(x, 1, axis, _extent(x, axis)), _part(axis, n), "both"),
    "all_gather": lambda axis, n: _conversion(
        lambda x: all_gather(x, 1, axis, _extent(x, axis)), _part(axis, n), "both"
    ),
    "zero_fill": lambda axis, n: _conversion(lambda x: zero_fill(x, 1, axis, _extent(x, axis)), _part(axis, n), "both"),
    "all_to_all": lambda axis, n: _conversion(
        lambda x: all_to_all(x, axis, Shard(0), Shard(1), x.shape[0] * axis.size), _whole(axis, n), "both"
    ),
    "halo": lambda axis, n: _halo(axis, n),  # noqa: PLW0108 (defined below)
    "gradient_sum": lambda axis, n: _gradients(axis, n),  # noqa: PLW0108
    "message": lambda axis, n: _message(axis, n),  # noqa: PLW0108
}
PRIMITIVES = tuple(_TABLE)
_SENT = {  # which directions send something
    **dict.fromkeys(("reduce_scatter", "all_gather", "all_to_all", "halo"), ("forward", "adjoint")),
    **dict.fromkeys(("gather", "all_sum", "gradient_sum", "message"), ("forward",)),
    **dict.fromkeys(("split", "copy"), ("adjoint",)),
}
_KEPT = {  # and which do not; the adjoint of gather, which only other ranks can lead to, is the forward of split
    **dict.fromkeys(("take", "zero_fill"), ("forward", "adjoint")),
    **dict.fromkeys(("split", "keep"), ("forward",)),
    "once": ("adjoint",),
}


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
        setup = _TABLE[primitive](axis, nbytes)
        for direction, seconds in _timed(clock, setup, chosen):
            if median(seconds) > _TOO_LONG:
                chosen.discard(direction)
            yield TimedMove(primitive, direction, place, axis.size, setup.before, setup.after, seconds)
        setup.close()


def _timed(clock: Timer, setup: _Setup, directions: Collection[str]) -> Iterator[tuple[str, tuple[float, ...]]]:
    if setup.forward is not None and "forward" in directions:
        yield "forward", clock.time(setup.forward)
    if setup.adjoint is not None and "adjoint" in directions:
        yield "adjoint", clock.adjoint(*setup.adjoint)


def _sizes(most: int) -> list[int]:
    return [_LEAST * 4**i for i in range(int(math.log(most / _LEAST, 4)) + 1)]


def _ones(shape: tuple[int, ...]) -> Tensor:
    return torch.ones(shape, requires_grad=True)


def _whole(axis: Axis, nbytes: int) -> Tensor:
    """About so many bytes in rows and columns, of which the axis cuts the columns evenly."""
    numel = max(nbytes // 4, axis.size)
    rows = min(1024, 1 << max(0, (int(math.log2(numel)) - 1) // 2))
    return _ones((rows, -(-numel // rows // axis.size) * axis.size))


def _part(axis: Axis, nbytes: int) -> Tensor:
    whole = _whole(axis, nbytes)
    return _ones((whole.shape[0], whole.shape[1] // axis.size))


def _extent(part: Tensor, axis: Axis) -> int:
    return part.shape[1] * axis.size


def _conversion(function: Callable[[Tensor], Tensor], x: Tensor, direction: str) -> _Setup:
    adjoint = (function, x) if direction != "forward" else None
    return _Setup((lambda: function(x)) if direction != "adjoint" else None, adjoint, x.nbytes, function(x).nbytes)


def _halo(axis: Axis, nbytes: int) -> _Setup:
    """Every rank has two rows, and wants one more on each side."""
    sides = min(2, axis.size - 1)
    x = _ones((4, 2, max(1, nbytes // 16 // sides)))
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
