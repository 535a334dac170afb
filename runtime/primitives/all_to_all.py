"""Shard to Shard: the same tensor, cut along another dim, or along the same dim read in another way.

Let P_i be the slice of rank i before and Q_j that of rank j after. Rank i sends Q_j P_i* x_i, what both slices share,
to rank j, which puts the pieces together; they are disjoint and cover its part:

    forward    y_j  = Q_j sum_i P_i* x_i        all-to-all
    adjoint    dx_i = P_i sum_j Q_j* dy_j       all-to-all with the two cuts exchanged

For two different dims the shared piece is a box. For one dim it is a list of runs, the intersections of the rows that
rank i held with those that rank j wants.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autopar.ir.layout import Shard
from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.memory_format import in_memory
from autopar.runtime.grid.shard_bounds import ShardBounds, as_they_lie, bounds_of_extent, bounds_of_part
from autopar.runtime.primitives.autograd import linear
from autopar.runtime.transport.base import pieces_of


def all_to_all(x: Tensor, axis: Axis, source: Shard, target: Shard, extent: int) -> Tensor:
    """The part of a tensor under `target`, of which `x` is the part under `source`.

    `extent` is the whole extent of ``source.dim``; blocks and units of both layouts are local to this axis.
    """
    before = bounds_of_part(x, source.dim, axis, extent, source.blocks, source.unit)
    same = source.dim % x.dim() == target.dim % x.dim()
    after = bounds_of_extent(x, target.dim, axis, extent if same else x.shape[target.dim], target.blocks, target.unit)
    return x if axis.size == 1 or before == after else _all_to_all(x, axis, before, after)


def _redistribute(x: Tensor, axis: Axis, source: ShardBounds, target: ShardBounds) -> Tensor:
    return as_they_lie(_moved, x, source.shape(x), axis, source, target)


_all_to_all = linear(_redistribute, lambda dy, axis, source, target: _redistribute(dy, axis, target, source))


def _moved(x: Tensor, axis: Axis, source: ShardBounds, target: ShardBounds) -> Tensor:
    if source.dim == target.dim:
        return _recut(x, axis, source, target)
    sends = target.room(x)
    for rank, part in enumerate(sends):
        part.copy_(target.region(x, rank).reshape(part.shape))
    out = x.new_empty(source.shape(sends[axis.index]))
    recvs = source.room(out)
    if source.even and target.even:
        axis.comm.all_to_all(sends, recvs)
    else:
        axis.comm.all_to_all(pieces_of(sends), pieces_of(recvs))
    for rank, piece in enumerate(recvs):
        source.place(piece, out, rank)
    return out


def _recut(x: Tensor, axis: Axis, source: ShardBounds, target: ShardBounds) -> Tensor:
    """One dim, read in two ways: the rows that rank i holds and rank j wants go from i to j in rising order."""
    me = axis.index
    dim = source.dim
    sends = [_select(x, dim, _shared(_runs(source, me), _runs(target, rank))) for rank in range(axis.size)]
    places = [_shared(_runs(target, me), _runs(source, rank)) for rank in range(axis.size)]
    out = x.new_empty(target.shape(x, me))
    recvs = [_select(out, dim, runs) for runs in places]
    axis.comm.all_to_all(sends, recvs)
    for runs, recv in zip(places, recvs, strict=True):
        sizes = [size for _, size in runs]
        for (start, size), rows in zip(runs, torch.split(recv, sizes, dim) if sizes else (), strict=True):
            out.narrow(dim, start, size).copy_(rows)
    return out


def _runs(cut: ShardBounds, rank: int) -> list[tuple[int, int]]:
    """The rows (start, stop) of the whole dim that are this rank's, in the order in which it holds them."""
    low, high = (bound * cut.unit for bound in cut.bounds[rank : rank + 2])
    block = cut.bounds[-1] * cut.unit
    return [(block * i + low, block * i + high) for i in range(cut.blocks)] if high > low else []


def _shared(mine: list[tuple[int, int]], others: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The rows in both lists, as (start, size) counted in the rows that `mine` lists one after another."""
    shared = []
    at = i = j = 0
    while i < len(mine) and j < len(others):
        low, high = max(mine[i][0], others[j][0]), min(mine[i][1], others[j][1])
        if low < high:
            shared.append((at + low - mine[i][0], high - low))
        if mine[i][1] <= others[j][1]:
            at += mine[i][1] - mine[i][0]
            i += 1
        else:
            j += 1
    return shared


def _select(x: Tensor, dim: int, runs: list[tuple[int, int]]) -> Tensor:
    """The rows of the runs, one after another, in memory of their own."""
    if not runs:
        return x.new_empty((*x.shape[:dim], 0, *x.shape[dim + 1 :]))
    return in_memory(torch.cat([x.narrow(dim, start, size) for start, size in runs], dim))
