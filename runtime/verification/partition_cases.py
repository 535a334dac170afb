"""A random family of cases for the primitives on partitions: which ranks, arranged how, hold tensors of which shapes.

A case is plain data, drawn alike on all ranks. Partitions have one to three dims and any of the communicator's ranks in
any order, so that source and target overlap, are disjoint, are the same, or leave ranks out. Parts are even, uneven and
empty. `case_error` is the adjoint test of one case.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from autopar.ir.grid import unravel
from autopar.ir.layout import Shard
from autopar.runtime.partitions.all_sum_reduce import all_sum_reduce
from autopar.runtime.partitions.broadcast import broadcast
from autopar.runtime.partitions.gather_to import gather_to
from autopar.runtime.partitions.partition import Bounds, Partition, copy_groups
from autopar.runtime.partitions.repartition import repartition
from autopar.runtime.partitions.scatter import scatter
from autopar.runtime.partitions.send_receive import send_receive
from autopar.runtime.partitions.sum_reduce import sum_reduce
from autopar.runtime.transport.base import Comm
from autopar.runtime.verification.adjoint_test import conversion_error

Shape = tuple[int, ...]
Array = tuple[Shape, tuple[int, ...], bool]  # a partition's shape and ranks, and whether it is meant transposed


@dataclass(frozen=True, slots=True)
class PartitionCase:
    """A primitive, its partitions, and what it works on.

    `shapes` are those of the tensors that are copied or summed, one per place of the smaller partition (for an
    all-sum-reduce, one for all); `before` and `bounds` are those of a tensor that is cut, before and after, the latter None
    where it is cut evenly.
    """

    name: str
    source: Array
    target: Array
    shapes: tuple[Shape, ...] = ()
    dims: tuple[int, ...] = ()
    before: Bounds = ()
    bounds: Bounds | None = None


@dataclass(frozen=True, slots=True)
class LiveCase:
    """A case on the ranks of a communicator: this rank's function, and the shape of its operand."""

    function: Callable[[Tensor], Tensor]
    shape: Shape
    source: Partition
    target: Partition


def draw_case(name: str, draw: random.Random, ranks: int) -> PartitionCase:
    """A case of the primitive `name` for a communicator of this many ranks."""
    return PARTITION_FAMILY[name](name, draw, ranks)


@contextmanager
def live(case: PartitionCase, comm: Comm) -> Iterator[LiveCase]:
    """The case on `comm`, whose partitions are freed when the context ends. Collective."""
    source, target = _partition(case.source, comm), _partition(case.target, comm)
    try:
        yield LiveCase(_function(case, source, target), _operand(case, source, target), source, target)
    finally:
        source.free()
        target.free()


def case_error(case: PartitionCase, comm: Comm, seed: int = 0) -> float:
    """The relative gap of the adjoint test. Collective over `comm`; the same number on every rank."""
    with live(case, comm) as here:  # tensors on partitions are held once each: the inner product is that of shards
        return conversion_error(here.function, Shard(0), Shard(0), here.shape, comm, seed)


def _partition(array: Array, comm: Comm) -> Partition:
    shape, ranks, transposed = array
    partition = Partition(comm, shape, ranks)
    return partition.transposed() if transposed else partition


def _function(case: PartitionCase, source: Partition, target: Partition) -> Callable[[Tensor], Tensor]:
    if case.name == "all_sum_reduce":
        return partial(all_sum_reduce, partition=source, dims=case.dims)
    if case.name == "repartition":
        return partial(repartition, source=source, target=target, bounds=case.bounds)
    if case.name == "scatter":
        return partial(scatter, source=source, target=target, bounds=case.bounds)
    others = {"send_receive": send_receive, "broadcast": broadcast, "sum_reduce": sum_reduce, "gather_to": gather_to}
    return partial(others[case.name], source=source, target=target)


def _operand(case: PartitionCase, source: Partition, target: Partition) -> Shape:
    """The local shape of the operand on this rank."""
    place = source.place
    if place is None:
        return (0,)
    if case.before:
        parts = (1,) * len(case.before) if source.size == 1 else source.shape
        return tuple(cuts[i + 1] - cuts[i] for cuts, i in zip(case.before, unravel(place, parts), strict=True))
    if case.name == "sum_reduce":
        return case.shapes[copy_groups(target, source).number[place]]
    return case.shapes[0 if case.name == "all_sum_reduce" else place]


def _draw_same(name: str, draw: random.Random, ranks: int) -> PartitionCase:
    shape = _extents(draw, ranks, draw.randint(1, 3))
    source, target = _array(draw, shape, ranks), _array(draw, shape, ranks)
    return PartitionCase(name, source, target, _shapes(draw, math.prod(shape)))


def _draw_spread(name: str, draw: random.Random, ranks: int) -> PartitionCase:
    large = _extents(draw, ranks, draw.randint(1, 3))
    small = tuple(draw.choice((1, extent)) for extent in large)
    while len(small) > 1 and small[0] == 1 and draw.random() < 0.5:
        small = small[1:]
    arrays = [_array(draw, small, ranks), _array(draw, large, ranks)]
    case = PartitionCase(name, arrays[0], arrays[1], _shapes(draw, math.prod(small)))
    return replace(case, source=arrays[1], target=arrays[0]) if name == "sum_reduce" else case


def _draw_sum(name: str, draw: random.Random, ranks: int) -> PartitionCase:
    shape = _extents(draw, ranks, draw.randint(1, 3))
    array = _array(draw, shape, ranks)
    dims = tuple(dim for dim in range(len(shape)) if draw.random() < 0.5)
    return PartitionCase(name, array, array, _shapes(draw, 1), dims)


def _draw_cut(name: str, draw: random.Random, ranks: int) -> PartitionCase:
    dims = draw.randint(1, 3)
    whole = tuple(draw.randint(0, 7) for _ in range(dims))
    shapes = [(1,) if name == single else _extents(draw, ranks, dims) for single in ("scatter", "gather_to")]
    before, after = (
        tuple(_cuts(draw, n, p) for n, p in zip(whole, (1,) * dims if math.prod(shape) == 1 else shape, strict=True))
        for shape in shapes
    )
    bounds = after if name != "gather_to" and draw.random() < 0.5 else None
    arrays = [_array(draw, shape, ranks) for shape in shapes]
    return PartitionCase(name, arrays[0], arrays[1], before=before, bounds=bounds)


PARTITION_FAMILY: dict[str, Callable[[str, random.Random, int], PartitionCase]] = {
    "send_receive": _draw_same,
    "broadcast": _draw_spread,
    "sum_reduce": _draw_spread,
    "all_sum_reduce": _draw_sum,
    "scatter": _draw_cut,
    "gather_to": _draw_cut,
    "repartition": _draw_cut,
}


def _extents(draw: random.Random, ranks: int, dims: int) -> Shape:
    """The shape of an array of at most so many places."""
    extents: list[int] = []
    for _ in range(dims):
        extents.append(draw.randint(1, ranks // math.prod(extents)))
    draw.shuffle(extents)
    return tuple(extents)


def _array(draw: random.Random, shape: Shape, ranks: int) -> Array:
    """A partition that comes out in this shape, with any ranks."""
    transposed = draw.random() < 0.3
    return shape[::-1] if transposed else shape, tuple(draw.sample(range(ranks), math.prod(shape))), transposed


def _shapes(draw: random.Random, count: int) -> tuple[Shape, ...]:
    return tuple(tuple(draw.randint(0, 3) for _ in range(draw.randint(0, 3))) for _ in range(count))


def _cuts(draw: random.Random, extent: int, parts: int) -> tuple[int, ...]:
    return (0, *sorted(draw.randint(0, extent) for _ in range(parts - 1)), extent)
