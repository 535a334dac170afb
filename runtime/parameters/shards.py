"""A whole tensor cut to this rank's part, and put together again.

The layouts of a stored tensor are given in terms of its whole dims. Where two axes split one dim, the outer axis cuts
first and the inner one cuts what is left, so the inner axis's reading has to be brought to what is left. Read the dim
row-major as a product of factors; a layout ``Shard(dim, blocks, unit)`` of an extent n cuts the factor whose rows
have strides from `unit` up to ``n / blocks``. When the outer axis has cut its own factor from m to s rows, the inner
layout sees

    blocks * s / m     where the outer factor lies in its blocks     (a batch split outside a sequence split)
    unit * s / m       where the outer factor lies in its unit       (the same two, the inner axis splitting the batch)
    s instead of m     where both cut one factor                     (heads split over two axes)

`cuts` works this out, outermost axis first; cutting follows its list, and gathering goes back through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from autopar.errors import ProgramMismatch, refusal
from autopar.ir.layout import Layouts, Shard
from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.planned_axis import CutAxis
from autopar.runtime.grid.shard_bounds import ShardBounds, gather_all

AnyAxis = TypeVar("AnyAxis", bound=CutAxis)
Runs = tuple[tuple[int, int], ...]  # rows as half-open intervals


@dataclass(frozen=True, slots=True)
class Factor:
    """What a layout cuts: the factor of the dim whose rows have strides from `low` up to `high` in the whole."""

    axis: CutAxis
    dim: int
    low: int
    high: int


def cuts(shape: Sequence[int], layouts: Layouts, axes: Sequence[AnyAxis]) -> list[tuple[AnyAxis, ShardBounds]]:
    """How a tensor of this whole shape is cut, outermost axis first, each in terms of what the ones before have left.

    Raises ProgramMismatch where two axes cut one dim across each other.
    """
    pairs: list[tuple[AnyAxis, ShardBounds]] = []
    done: dict[int, list[tuple[Factor, int, int]]] = {}
    for axis, layout in zip(axes, layouts, strict=True):
        if not isinstance(layout, Shard):
            continue
        whole = shape[layout.dim]
        factor = Factor(axis, layout.dim, layout.unit, whole // layout.blocks)
        blocks, extent, unit = _left(layout, whole, factor, done.setdefault(layout.dim, []))
        cut = ShardBounds(layout.dim, blocks, unit, axis.bounds(extent))
        pairs.append((axis, cut))
        done[layout.dim].append((factor, extent, cut.bounds[axis.index + 1] - cut.bounds[axis.index]))
    return pairs


def _left(layout: Shard, whole: int, factor: Factor, before: Sequence[tuple[Factor, int, int]]) -> tuple[int, int, int]:
    """Blocks, extent and unit of a layout once the axes `before` have cut their factors from m to s rows."""
    blocks, unit = layout.blocks, layout.unit
    extent = whole // (blocks * unit)
    for other, m, s in before:
        if other.low >= factor.high:
            blocks = blocks // m * s if m else 0
        elif other.high <= factor.low:
            unit = unit // m * s if m else 0
        elif (other.low, other.high) == (factor.low, factor.high):
            extent = s
        else:
            where = f"a dim of extent {whole}, split over {other.axis.name} and {factor.axis.name}"
            problem = f"{factor.axis.name} reads it as {layout.blocks} x m x {layout.unit}"
            rule = "two axes that split one dim cut the same factor of it, or factors that do not overlap"
            raise ProgramMismatch(refusal(where, problem, rule))
    return blocks, extent, unit


def local_shape(shape: Sequence[int], layouts: Layouts, axes: Sequence[CutAxis]) -> tuple[int, ...]:
    """The shape of this rank's part."""
    return part_shape(shape, cuts(shape, layouts, axes))


def part_shape(shape: Sequence[int], every: Sequence[tuple[CutAxis, ShardBounds]]) -> tuple[int, ...]:
    """The shape of this rank's part of a tensor that is cut so."""
    local = list(shape)
    for axis, cut in every:
        local[cut.dim] = cut.size(axis.index)
    return tuple(local)


def view_part(whole: Tensor, layouts: Layouts, axes: Sequence[CutAxis]) -> Tensor:
    """This rank's part of a whole tensor, contiguous; it shares the memory of the whole where it lies in one piece."""
    part = whole.contiguous()
    for axis, cut in cuts(whole.shape, layouts, axes):
        part = cut.part(part, axis.index)
    return part


def take_part(whole: Tensor, layouts: Layouts, axes: Sequence[Axis]) -> Tensor:
    """This rank's part of a whole tensor, contiguous and in memory of its own, so that the whole can go."""
    return view_part(whole.detach(), layouts, axes).clone(memory_format=torch.contiguous_format)


def gather_whole(part: Tensor, shape: Sequence[int], layouts: Layouts, axes: Sequence[Axis]) -> Tensor:
    """The whole tensor of this shape, of which every rank holds its part. Collective over the sharding axes."""
    whole = gather_all(part.detach(), cuts(shape, layouts, axes))
    return whole.clone(memory_format=torch.contiguous_format) if whole.data_ptr() == part.data_ptr() else whole


def gather_gradient(part: Tensor, shape: Sequence[int], layouts: Layouts, axes: Sequence[Axis]) -> Tensor:
    """The whole gradient of a tensor of which every rank holds its part; zeros for a part without. Collective as above."""
    return gather_whole(torch.zeros_like(part) if part.grad is None else part.grad, shape, layouts, axes)


def rows(shape: Sequence[int], layouts: Layouts, axes: Sequence[CutAxis]) -> tuple[Runs, ...]:
    """For every dim, which rows of the whole are this rank's, as runs: what has to be read from a file.

    A part is the product of the rows of its dims, since every cut is of one dim.
    """
    return rows_of(shape, cuts(shape, layouts, axes))


def rows_of(shape: Sequence[int], every: Sequence[tuple[CutAxis, ShardBounds]]) -> tuple[Runs, ...]:
    """`rows` of a tensor of this whole shape that is cut so, outermost axis first."""
    runs = []
    for dim, extent in enumerate(shape):
        index = torch.arange(extent)
        for axis, cut in every:
            if cut.dim == dim:
                index = ShardBounds(0, cut.blocks, cut.unit, cut.bounds).part(index, axis.index)
        runs.append(_runs(index))
    return tuple(runs)


def _runs(index: Tensor) -> Runs:
    """Rising row numbers as intervals.

    >>> _runs(torch.tensor([2, 3, 4, 8]))
    ((2, 5), (8, 9))
    """
    if not len(index):
        return ()
    breaks = (index.diff() != 1).nonzero().flatten().tolist()
    starts = [0, *(at + 1 for at in breaks)]
    stops = [*breaks, len(index) - 1]
    return tuple((int(index[a]), int(index[b]) + 1) for a, b in zip(starts, stops, strict=True))
