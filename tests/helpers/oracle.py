"""Whole tensors and their local parts: the oracle against which the runtime's conversions are tested.

`scatter` lays a whole tensor out over one axis; `assemble` puts local parts back together and insists that the layout's
promise holds (replicas are equal, shards have the right size). Addends of a `Partial` tensor are random. `convert` is the
runtime's function for each of CELLS.
"""

from dataclasses import dataclass

import torch

from autopar.ir.layout import Copied, Layout, Partial, Replicate, Shard
from autopar.runtime import (
    all_gather,
    all_sum,
    all_to_all,
    copy,
    gather,
    keep,
    once,
    reduce_scatter,
    split,
    take,
    zero_fill,
)
from autopar.runtime.grid.grid import Axis

R, C, P = Replicate(), Copied(), Partial()
KINDS = ["replicate", "shard", "partial", "copied"]
CELLS = [(a, b) for a in KINDS for b in KINDS if a != b or a == "shard"]


@dataclass(frozen=True)
class Place:
    """Where a rank is on an axis, and how it cuts: an axis without its communicator, which cannot be pickled."""

    size: int
    index: int
    cuts: tuple[float, ...] | None

    @staticmethod
    def of(axis: Axis) -> "Place":
        return Place(axis.size, axis.index, axis.cuts)

    def bounds(self, extent: int) -> tuple[int, ...]:
        """The definition of `Axis.bounds`, written apart from it."""
        if self.cuts is not None:
            return tuple(int(cut * extent + 0.5) for cut in self.cuts)
        larger = extent % self.size
        sizes = [extent // self.size + (rank < larger) for rank in range(self.size)]
        return tuple(sum(sizes[:rank]) for rank in range(self.size + 1))


def rows(shard: Shard, bounds: tuple[int, ...], rank: int) -> torch.Tensor:
    """The indices of the rows of the whole dim that `rank` holds."""
    m = bounds[-1]
    index = torch.arange(shard.blocks * m * shard.unit).reshape(shard.blocks, m, shard.unit)
    return index[:, bounds[rank] : bounds[rank + 1]].reshape(-1)


def scatter(whole: torch.Tensor, layout: Layout, axis: Axis | Place) -> list[torch.Tensor]:
    """Every rank's local tensor; the same on all ranks that call it with the same whole tensor."""
    ranks = range(axis.size)
    if isinstance(layout, Shard):
        bounds = axis.bounds(whole.shape[layout.dim] // (layout.blocks * layout.unit))
        return [whole.index_select(layout.dim, rows(layout, bounds, rank)).clone() for rank in ranks]
    if isinstance(layout, Partial):
        generator = torch.Generator().manual_seed(7)
        addends = [torch.randn(whole.shape, generator=generator, dtype=whole.dtype) for _ in ranks[1:]]
        return [whole - sum(addends, torch.zeros_like(whole)), *addends]
    return [whole.clone() for _ in ranks]


def assemble(parts: list[torch.Tensor], layout: Layout, axis: Place, extent: int | None = None) -> torch.Tensor:
    """The whole tensor that the parts of all ranks make up; `extent` is the whole extent of a sharded dim."""
    if isinstance(layout, Shard):
        dim = layout.dim % parts[0].dim()
        total = sum(part.shape[dim] for part in parts) if extent is None else extent
        bounds = axis.bounds(total // (layout.blocks * layout.unit))
        shape = list(parts[0].shape)
        shape[dim] = total
        whole = torch.empty(shape, dtype=parts[0].dtype)
        assert sorted(row for rank in range(axis.size) for row in rows(layout, bounds, rank).tolist()) == list(
            range(total)
        )
        for rank, part in enumerate(parts):
            whole.index_copy_(dim, rows(layout, bounds, rank), part)
        return whole
    if isinstance(layout, Partial):
        return torch.stack(parts).sum(0)
    assert isinstance(layout, Replicate | Copied)
    for part in parts[1:]:
        assert torch.equal(part, parts[0]), "replicas differ"
    return parts[0]


def convert(x: torch.Tensor, source: Layout, target: Layout, axis: Axis, extent: int) -> torch.Tensor:
    """The one function (or composition) of each cell of the table in docs/design.md; `extent`: of the source's dim."""
    s = source if isinstance(source, Shard) else target
    reading = (s.blocks, s.unit) if isinstance(s, Shard) else (1, 1)
    match source, target:
        case Replicate(), Shard(dim):
            return split(x, dim, axis, *reading)
        case Replicate(), Partial():
            return keep(x, axis)
        case Replicate(), Copied():
            return copy(x, axis)
        case Shard(dim), Replicate():
            return gather(x, dim, axis, extent, *reading)
        case Shard(), Shard():
            return all_to_all(x, axis, source, target, extent)
        case Shard(dim), Partial():
            return zero_fill(x, dim, axis, extent, *reading)
        case Shard(dim), Copied():
            return all_gather(x, dim, axis, extent, *reading)
        case Partial(), Replicate():
            return all_sum(x, axis)
        case Partial(), Shard(dim):
            return reduce_scatter(x, dim, axis, *reading)
        case Partial(), Copied():
            return copy(all_sum(x, axis), axis)
        case Copied(), Replicate():
            return once(x, axis)
        case Copied(), Shard(dim):
            return take(x, dim, axis, *reading)
        case Copied(), Partial():
            return keep(once(x, axis), axis)
    raise AssertionError(f"{source} to {target} is no cell")


def layout_of(kind: str, shard: Shard) -> Layout:
    return {"replicate": R, "partial": P, "copied": C, "shard": shard}[kind]
