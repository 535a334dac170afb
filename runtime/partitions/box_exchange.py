"""The exchange behind scatter, gather and repartition: from one decomposition of a tensor to another.

Let P_i be the restriction of the tensor to the box of rank i before, Q_j to that of rank j after. The two boxes meet in
a box R_ij, dim by dim the rows from the larger start to the smaller stop, which may have no elements. Rank i sends R_ij
to rank j where it has any, and keeps R_ii. What rank j gets is disjoint and fills its box.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from autopar.ir.grid import unravel
from autopar.runtime.partitions.agreement import Agreement, between_partitions
from autopar.runtime.partitions.partition import Box, Decomposition, Partition
from autopar.runtime.transport.base import Comm


def _rearranged(x: Tensor, dtype: torch.dtype, comm: Comm, source: Decomposition, target: Decomposition) -> Tensor:
    """This rank's part under `target`, without elements if it has none; `x` is its part under `source`, if any."""
    mine, theirs = source.box(comm.rank), target.box(comm.rank)
    y = x.new_empty((0,) if theirs is None else [high - low for low, high in theirs], dtype=dtype)
    sends = {rank: x[_within(box, mine)].contiguous() for rank, box in _meetings(mine, target)}
    places = {rank: y[_within(box, theirs)] for rank, box in _meetings(theirs, source)}
    if comm.rank in sends:
        places.pop(comm.rank).copy_(sends.pop(comm.rank))
    recvs = {rank: place if place.is_contiguous() else y.new_empty(place.shape) for rank, place in places.items()}
    comm.exchange(sends, recvs)
    for rank, room in recvs.items():
        if room.data_ptr() != places[rank].data_ptr():
            places[rank].copy_(room)
    return y


rearrange = between_partitions(
    _rearranged, lambda dy, dtype, comm, source, target: _rearranged(dy, dy.dtype, comm, target, source)
)
"""`_rearranged` for autograd: its adjoint is the same with the two decompositions exchanged."""


def observed(agreed: Agreement, partition: Partition) -> Decomposition:
    """The decomposition that the shapes of the tensors on `partition` amount to, even or not.

    Raises ProgramMismatch, on all ranks alike, where they do not fit together.
    """
    shapes = [agreed.shapes[rank] for rank in partition.ranks]
    parts = (1,) * len(shapes[0]) if partition.size == 1 else partition.shape
    if any(len(shape) != len(parts) for shape in shapes):
        rule = f"tensors on {partition} have {len(parts)} dims"
        raise agreed.refuse("tensors of another number of dims than their partition", rule, partition.ranks)
    sizes = [[0] * part for part in parts]
    for place, shape in enumerate(shapes):
        index = unravel(place, parts)
        for dim, (i, size) in enumerate(zip(index, shape, strict=True)):
            if not any(index[:dim] + index[dim + 1 :]):
                sizes[dim][i] = size
    expected = [tuple(sizes[d][i] for d, i in enumerate(unravel(p, parts))) for p in range(partition.size)]
    if expected != shapes:
        ranks = [rank for rank, want, shape in zip(partition.ranks, expected, shapes, strict=True) if want != shape]
        rule = "ranks at the same index along a dim of the partition hold the same number of rows of it"
        raise agreed.refuse(f"parts on {partition} that make up no tensor", rule, ranks)
    bounds = tuple(tuple(sum(column[:i]) for i in range(len(column) + 1)) for column in sizes)
    return Decomposition(partition.ranks, parts, bounds)


@lru_cache(maxsize=1024)
def _meetings(box: Box | None, others: Decomposition) -> tuple[tuple[int, Box], ...]:
    """The ranks whose boxes meet this one, and where."""
    met = []
    for rank in others.ranks if box is not None else ():
        other = others.box(rank)
        assert box is not None
        assert other is not None
        shared = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, other, strict=True))
        if all(low < high for low, high in shared):
            met.append((rank, shared))
    return tuple(met)


def _within(box: Box, held: Box | None) -> tuple[slice, ...]:
    """Where the rows of `box` lie in a tensor that holds those of `held`."""
    assert held is not None
    return tuple(slice(low - start, high - start) for (low, high), (start, _) in zip(box, held, strict=True))
