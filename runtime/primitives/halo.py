"""Shard to overlapping windows: every rank gets the rows that it needs, whoever owns them.

Rank i owns the rows O_i = [bounds[i], bounds[i+1]) of a dim of n rows and wants W_i = [start_i, stop_i), any
interval. Rows of W_i outside [0, n) are padding of a given value; rows of O_i that W_i lacks are left behind. With
R_ij the restriction of the rows of rank i to what rank j wants, copied into rank j's buffer, and v_j the padding:

    forward    y_j  = sum_i R_ij x_i + v_j      a copy at home, a message from every other rank whose rows are wanted
    adjoint    dx_i = sum_j R_ij* dy_j          the same messages backwards; what several want is added at its owner

Only ranks whose intervals meet exchange messages, neighbours or not. Where several dims are split, they are exchanged
one after the other: the second exchange carries the rows that the first has fetched, so that corners are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from autopar.runtime.grid import Axis
from autopar.runtime.primitives.cut import cut_local
from autopar.runtime.primitives.function import apply

Interval = tuple[int, int]  # rows from the first up to, and without, the second


@dataclass(frozen=True, slots=True)
class _Trade:
    """What one rank sends, receives and keeps; intervals are in rows of the whole dim."""

    owned: Interval
    wanted: Interval
    padding: tuple[Interval, ...]
    kept: Interval
    sends: tuple[tuple[int, Interval], ...]
    recvs: tuple[tuple[int, Interval], ...]


class _Context(FunctionCtx):
    dim: int
    axis: Axis
    trade: _Trade


class _Halo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, dim: int, axis: Axis, trade: _Trade, value: float) -> Tensor:
        ctx.dim, ctx.axis, ctx.trade = dim, axis, trade
        y = _room(x, dim, trade.wanted)
        for rows in trade.padding:
            _rows(y, dim, rows, trade.wanted).fill_(value)
        sends = {rank: _rows(x, dim, rows, trade.owned).contiguous() for rank, rows in trade.sends}
        recvs = {rank: _receiver(y, dim, rows, trade.wanted) for rank, rows in trade.recvs}
        _rows(y, dim, trade.kept, trade.wanted).copy_(_rows(x, dim, trade.kept, trade.owned))
        axis.comm.exchange(sends, recvs)
        for rank, rows in trade.recvs:
            target = _rows(y, dim, rows, trade.wanted)
            if recvs[rank].data_ptr() != target.data_ptr():
                target.copy_(recvs[rank])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        dim, trade = ctx.dim, ctx.trade
        sends = {rank: _rows(grad, dim, rows, trade.wanted).contiguous() for rank, rows in trade.recvs}
        recvs = {rank: _room(grad, dim, rows) for rank, rows in trade.sends}
        dx = _room(grad, dim, trade.owned)
        (low, high), (start, stop) = trade.owned, trade.kept
        _rows(dx, dim, (low, start), trade.owned).zero_()
        _rows(dx, dim, trade.kept, trade.owned).copy_(_rows(grad, dim, trade.kept, trade.wanted))
        _rows(dx, dim, (stop, high), trade.owned).zero_()
        ctx.axis.comm.exchange(sends, recvs)
        for rank, rows in trade.sends:
            _rows(dx, dim, rows, trade.owned).add_(recvs[rank])
        return dx, None, None, None, None


def halo(x: Tensor, dim: int, axis: Axis, extent: int, wanted: Sequence[Interval], value: float = 0.0) -> Tensor:
    """The rows ``wanted[axis.index]`` of `dim`, of whose `extent` rows `x` holds this rank's part; `value` outside.

    `wanted` has one interval per rank of the axis, alike on every rank. Where a rank wants exactly what it has and
    nobody wants anything of it, `x` is returned as it is.
    """
    cut = cut_local(x, dim, axis, extent, 1, 1)
    trade = _trade(axis.index, cut.bounds, tuple(wanted))
    if trade.owned == trade.wanted and not trade.sends:
        return x
    return apply(_Halo, x, dim, axis, trade, value)


@lru_cache(maxsize=1024)
def _trade(rank: int, bounds: tuple[int, ...], wanted: tuple[Interval, ...]) -> _Trade:
    owned = tuple((bounds[i], bounds[i + 1]) for i in range(len(wanted)))
    others = [i for i in range(len(wanted)) if i != rank]
    sends = [(i, _meet(owned[rank], wanted[i])) for i in others]
    recvs = [(i, _meet(owned[i], wanted[rank])) for i in others]
    extent = bounds[-1]
    start, stop = wanted[rank]
    padding = (start, min(stop, 0)), (max(start, extent), stop)
    kept = _meet(owned[rank], wanted[rank])
    return _Trade(
        owned[rank],
        wanted[rank],
        tuple((low, high) for low, high in padding if low < high),
        kept if kept[0] < kept[1] else (owned[rank][0], owned[rank][0]),
        tuple((i, rows) for i, rows in sends if rows[0] < rows[1]),
        tuple((i, rows) for i, rows in recvs if rows[0] < rows[1]),
    )


def _meet(a: Interval, b: Interval) -> Interval:
    return max(a[0], b[0]), min(a[1], b[1])


def _room(like: Tensor, dim: int, rows: Interval) -> Tensor:
    return like.new_empty((*like.shape[:dim], rows[1] - rows[0], *like.shape[dim + 1 :]))


def _rows(tensor: Tensor, dim: int, rows: Interval, held: Interval) -> Tensor:
    """A view of these rows of a tensor that holds the rows `held`; no rows may lie anywhere."""
    size = rows[1] - rows[0]
    return tensor.narrow(dim, rows[0] - held[0] if size else 0, size)


def _receiver(y: Tensor, dim: int, rows: Interval, held: Interval) -> Tensor:
    """Where a message for these rows of `y` is received: in place if they are contiguous."""
    target = _rows(y, dim, rows, held)
    return target if target.is_contiguous() else _room(y, dim, rows)
