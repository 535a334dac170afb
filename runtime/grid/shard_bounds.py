"""Where the ranks of an axis hold which rows of a dim: the arithmetic that all conversions share.

A dim of extent n is read as ``blocks x m x unit`` and the middle factor is cut at the axis's bounds for m (see
`autopar.ir.layout.Shard`). `ShardBounds` is that reading with the bounds filled in. Rank i then holds, in every block, the rows
``bounds[i] * unit`` to ``bounds[i+1] * unit``; its part of the dim is those runs one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autopar.errors import ProgramMismatch, refusal
from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.memory_format import TURNED, are_images, in_memory, order, turn, turn_back
from autopar.runtime.transport.base import Pieces


@dataclass(frozen=True, slots=True)
class ShardBounds:
    """A dim of a tensor, cut into one part per rank."""

    dim: int
    blocks: int
    unit: int
    bounds: tuple[int, ...]

    @property
    def ranks(self) -> int:
        """The number of parts."""
        return len(self.bounds) - 1

    @property
    def extent(self) -> int:
        """The extent of the whole dim."""
        return self.blocks * self.bounds[-1] * self.unit

    @property
    def even(self) -> bool:
        """Whether all parts have one size."""
        return len({self.size(rank) for rank in range(self.ranks)}) == 1

    def size(self, rank: int) -> int:
        """The extent of this rank's part of the dim."""
        return self.blocks * (self.bounds[rank + 1] - self.bounds[rank]) * self.unit

    def region(self, whole: Tensor, rank: int) -> Tensor:
        """The part of `whole` that is this rank's, as a view; with several blocks its dim is unfolded into three."""
        low, high = self.bounds[rank], self.bounds[rank + 1]
        if self.blocks == 1:
            return whole.narrow(self.dim, low * self.unit, (high - low) * self.unit)
        factors = (self.blocks, self.bounds[-1], self.unit)
        unfolded = whole.view(*whole.shape[: self.dim], *factors, *whole.shape[self.dim + 1 :])
        return unfolded.narrow(self.dim + 1, low, high - low)

    def part(self, whole: Tensor, rank: int) -> Tensor:
        """The part of `whole` that is this rank's, in one piece of memory; a view where it lies so."""
        part = self.region(whole, rank)
        if (
            self.blocks != 1
        ):  # a reshape that changes nothing would give dims of one row other strides, which torch trips over
            part = part.reshape(self.shape(whole, rank))
        return in_memory(part, order(whole))

    def place(self, part: Tensor, whole: Tensor, rank: int) -> None:
        """Write this rank's `part` to where it belongs in `whole`."""
        region = self.region(whole, rank)
        region.copy_(part.reshape(region.shape))

    def shape(self, like: Tensor, rank: int | None = None) -> tuple[int, ...]:
        """The shape of `like` with this dim as on one rank, or as whole."""
        extent = self.extent if rank is None else self.size(rank)
        return (*like.shape[: self.dim], extent, *like.shape[self.dim + 1 :])

    def room(self, like: Tensor) -> Pieces:
        """Room for every rank's part, one after another in one piece of memory."""
        shapes = [self.shape(like, rank) for rank in range(self.ranks)]
        if self.even:
            return like.new_empty((self.ranks, *shapes[0]))
        sizes = [torch.Size(shape).numel() for shape in shapes]
        parts = torch.split(like.new_empty(sum(sizes)), sizes)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def turned(self) -> ShardBounds:
        """This cut of an image whose channels have become its last dim."""
        return replace(self, dim=TURNED.index(self.dim))

    def in_order(self, whole: Tensor) -> Pieces | None:
        """Every rank's part of a contiguous tensor, where these lie one after another in its memory."""
        if self.blocks != 1 or any(n != 1 for n in whole.shape[: self.dim]):
            return None
        if self.even:
            return whole.view(self.ranks, *self.shape(whole, 0))
        return [self.region(whole, rank) for rank in range(self.ranks)]


def bounds_of_whole(x: Tensor, dim: int, axis: Axis, blocks: int, unit: int) -> ShardBounds:
    """How `axis` cuts `dim` of a tensor that is whole over it."""
    return bounds_of_extent(x, dim, axis, x.shape[dim], blocks, unit)


def bounds_of_extent(x: Tensor, dim: int, axis: Axis, extent: int, blocks: int, unit: int) -> ShardBounds:
    """How `axis` cuts `dim` of `x` when the whole extent of that dim is `extent`. Raises ProgramMismatch."""
    piece = blocks * unit  # 0 where another axis leaves this rank none of a factor around: then there is nothing to cut
    if extent % piece if piece else extent:
        rule = f"the dim is read as {blocks} x m x {unit}"
        where = f"dim {dim} of a tensor of shape {tuple(x.shape)} over axis {axis.name}"
        raise ProgramMismatch(refusal(where, f"cannot cut extent {extent}", rule))
    return ShardBounds(dim % x.dim(), blocks, unit, axis.bounds(extent // piece if piece else 0))


def bounds_of_part(x: Tensor, dim: int, axis: Axis, extent: int, blocks: int, unit: int) -> ShardBounds:
    """`bounds_of_extent` for a tensor of which this rank holds a part. Raises ProgramMismatch for another size too."""
    bounds = bounds_of_extent(x, dim, axis, extent, blocks, unit)
    if x.shape[dim] != bounds.size(axis.index):
        where = f"dim {dim} of a tensor of shape {tuple(x.shape)} over axis {axis.name}"
        problem = f"has {x.shape[dim]} rows on rank {axis.index} of the axis"
        rule = f"of {extent} rows, read as {blocks} x m x {unit}, this rank holds {bounds.size(axis.index)}"
        raise ProgramMismatch(refusal(where, problem, rule))
    return bounds


def as_they_lie(
    move: Callable[..., Tensor], x: Tensor, whole: Sequence[int], axis: Axis, *bounds: ShardBounds
) -> Tensor:
    """``move(x, axis, *bounds)`` of a part of a tensor of shape `whole`; of images with their channels as the last dim."""
    if are_images(x, axis, move.__name__, whole):
        return turn_back(move(turn(x), axis, *(cut.turned() for cut in bounds)))
    return move(x, axis, *bounds)


def gather_parts(x: Tensor, axis: Axis, bounds: ShardBounds) -> Tensor:
    """The whole tensor, of which this rank holds the part `x`."""
    return as_they_lie(_gather, x, bounds.shape(x), axis, bounds)


def _gather(x: Tensor, axis: Axis, bounds: ShardBounds) -> Tensor:
    whole = x.new_empty(bounds.shape(x))
    parts = bounds.in_order(whole)
    if parts is not None:
        axis.comm.all_gather(in_memory(x), parts)
        return whole.contiguous(memory_format=order(x))
    parts = bounds.room(x)
    axis.comm.all_gather(in_memory(x), parts)
    whole = torch.empty_like(whole, memory_format=order(x)) if bounds.blocks == 1 else whole
    for rank, part in enumerate(parts):
        bounds.place(part, whole, rank)
    return whole


def gather_all(part: Tensor, cuts: Sequence[tuple[Axis, ShardBounds]]) -> Tensor:
    """The tensor that these cuts, the outermost first, have made into parts, of which this rank holds one."""
    for axis, cut in reversed(cuts):
        if axis.size > 1:
            part = gather_parts(part.contiguous(), axis, cut)
    return part


def sum_parts(whole: Tensor, axis: Axis, bounds: ShardBounds) -> Tensor:
    """This rank's part of the sum over the axis of `whole`."""
    return as_they_lie(_sum_parts, whole, whole.shape, axis, bounds)


def _sum_parts(whole: Tensor, axis: Axis, bounds: ShardBounds) -> Tensor:
    source = in_memory(whole)
    out = whole.new_empty(bounds.shape(whole, axis.index))
    parts = bounds.in_order(source)
    if parts is None:
        parts = bounds.room(whole)
        for rank, part in enumerate(parts):
            part.copy_(bounds.region(source, rank).reshape(part.shape))
    axis.comm.reduce_scatter(parts, out)
    return out.contiguous(memory_format=order(whole))


def sum_whole(x: Tensor, axis: Axis) -> Tensor:
    """The sum over the axis of `x`, in memory of its own."""
    return as_they_lie(_sum_whole, x, x.shape, axis)


def _sum_whole(x: Tensor, axis: Axis) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    axis.comm.all_reduce(total)
    return total.contiguous(memory_format=order(x))


def fill_with_zeros(part: Tensor, bounds: ShardBounds, rank: int) -> Tensor:
    """The whole tensor with this rank's part in its place and zeros elsewhere."""
    whole = part.new_zeros(bounds.shape(part))
    whole = whole.contiguous(memory_format=order(part)) if bounds.blocks == 1 else whole
    bounds.place(part, whole, rank)
    return whole
