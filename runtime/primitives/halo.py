"""Shard to overlapping windows: every rank gets the rows that it needs, whoever owns them.

Rank i owns the rows O_i = [bounds[i], bounds[i+1]) of a dim of n rows and wants W_i, an interval or several glued
together. Rows of W_i outside [0, n) are padding of a given value; rows of O_i that W_i lacks are left behind. With
R_ij the restriction of the rows of rank i to what rank j wants, copied into rank j's buffer, and v_j the padding:

    forward    y_j  = sum_i R_ij x_i + v_j      a copy at home, a message from every other rank whose rows are wanted
    adjoint    dx_i = sum_j R_ij* dy_j          the same messages backwards; what several want is added at its owner

Only ranks whose rows meet exchange messages (`autopar.runtime.grid.exchange_plan`), neighbours or not, one per pair.
Where several dims are split, they are exchanged one after the other: the second exchange carries the rows that the
first has fetched, so that corners are right.

Both directions are `depart`, the messages, and `arrive`, so that the messages of all ranks may also be performed in
one process.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autopar.runtime.grid.exchange_plan import ExchangePlan, Interval, Intervals, RowRun, plan_exchange, rows_in
from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.memory_format import in_memory
from autopar.runtime.grid.shard_bounds import bounds_of_part
from autopar.runtime.primitives.autograd import linear

Messages = dict[int, Tensor]  # by the rank that they go to or come from


def halo(
    x: Tensor, dim: int, axis: Axis, extent: int, wanted: Sequence[Interval | Intervals], value: float = 0.0
) -> Tensor:
    """The rows ``wanted[axis.index]`` of `dim`, of whose `extent` rows `x` holds this rank's part; `value` outside.

    `wanted` has an interval, or a tuple of disjoint intervals to be glued together, per rank of the axis, alike on
    every rank. Where a rank wants exactly what it has and nobody wants anything of it, `x` is returned as it is.
    Raises ProgramMismatch where `x` is not this rank's part.
    """
    bounds = bounds_of_part(x, dim, axis, extent, 1, 1)
    plan = plan_exchange(axis.index, bounds.bounds, tuple(_pieces(rows) for rows in wanted))
    return x if plan.is_identity else _halo(x, bounds.dim, axis, plan, value)


def depart(x: Tensor, dim: int, plan: ExchangePlan, value: float) -> tuple[Tensor, Messages, Messages]:
    """The result with what this rank knows of it, what it sends, and room for what it receives."""
    y = _room(x, dim, plan.wanted)
    for low, high in plan.padding:
        y.narrow(dim, low, high - low).fill_(value)
    sends = {rank: _joined([x.narrow(dim, run.source, run.count) for run in runs], dim) for rank, runs in plan.sends}
    recvs = {rank: _receiver(y, dim, runs) for rank, runs in plan.recvs}
    for run in plan.kept:
        y.narrow(dim, run.target, run.count).copy_(x.narrow(dim, run.source, run.count))
    return y, sends, recvs


def arrive(y: Tensor, dim: int, plan: ExchangePlan, recvs: Messages) -> None:
    """Put what was received in its place."""
    for rank, runs in plan.recvs:
        for run, part in zip(runs, _parts(recvs[rank], dim, runs), strict=True):
            target = y.narrow(dim, run.target, run.count)
            if part.data_ptr() != target.data_ptr():
                target.copy_(part)


def depart_back(grad: Tensor, dim: int, plan: ExchangePlan) -> tuple[Tensor, Messages, Messages]:
    """`depart` of the adjoint: what was received is sent back, what was left behind has gradient zero."""
    dx = _room(grad, dim, plan.owned)
    for low, high in plan.left:
        dx.narrow(dim, low, high - low).zero_()
    for run in plan.kept:
        dx.narrow(dim, run.source, run.count).copy_(grad.narrow(dim, run.target, run.count))
    sends = {rank: _joined([grad.narrow(dim, run.target, run.count) for run in runs], dim) for rank, runs in plan.recvs}
    return dx, sends, {rank: _room(grad, dim, rows_in(runs)) for rank, runs in plan.sends}


def arrive_back(dx: Tensor, dim: int, plan: ExchangePlan, recvs: Messages) -> None:
    """Add what came back to the rows that had been sent."""
    for rank, runs in plan.sends:
        for run, part in zip(runs, _parts(recvs[rank], dim, runs), strict=True):
            dx.narrow(dim, run.source, run.count).add_(part)


def _exchanged(x: Tensor, dim: int, axis: Axis, plan: ExchangePlan, value: float) -> Tensor:
    y, sends, recvs = depart(x, dim, plan, value)
    if sends or recvs:
        axis.comm.exchange(sends, recvs)
    arrive(y, dim, plan, recvs)
    return y


def _exchanged_back(dy: Tensor, dim: int, axis: Axis, plan: ExchangePlan, value: float) -> Tensor:
    dx, sends, recvs = depart_back(dy, dim, plan)
    if sends or recvs:
        axis.comm.exchange(sends, recvs)
    arrive_back(dx, dim, plan, recvs)
    return dx


_halo = linear(_exchanged, _exchanged_back)


def _pieces(rows: Interval | Intervals) -> Intervals:
    if len(rows) == 2 and isinstance(rows[0], int):
        return (rows,)
    return rows


def _room(like: Tensor, dim: int, rows: int) -> Tensor:
    return like.new_empty((*like.shape[:dim], rows, *like.shape[dim + 1 :]))


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return in_memory(parts[0] if len(parts) == 1 else torch.cat(parts, dim))


def _parts(message: Tensor, dim: int, runs: tuple[RowRun, ...]) -> tuple[Tensor, ...]:
    return (message,) if len(runs) == 1 else torch.split(message, [run.count for run in runs], dim)


def _receiver(y: Tensor, dim: int, runs: tuple[RowRun, ...]) -> Tensor:
    """Where a message for these rows of `y` is received: in place if they are contiguous."""
    if len(runs) == 1:
        target = y.narrow(dim, runs[0].target, runs[0].count)
        if target.is_contiguous():
            return target
    return _room(y, dim, rows_in(runs))
