"""How much of a tensor one rank holds: local extents and bytes from layouts, for prices.

A dim of extent n that is split is read as ``blocks x m x unit``, and the factor m is cut. Prices take the largest shard,
ceil(m / parts) where bounds are balanced: the step waits for the rank that holds most. Of a grid that is seen from one rank
(`GridShape.at`) they take that rank's. Two axes that cut the same factor nest, the outer axis (lower index) first:
ceil(ceil(m / p0) / p1). Cuts of factors that lie apart multiply, in any order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import pairwise

from autopar.ir.graph import ITEMSIZE
from autopar.ir.grid import GridShape
from autopar.ir.layout import Layout, Layouts, Shard, cut_bounds
from autopar.ops.record.rule import Call, Choice


def ceil_div(extent: int, parts: int) -> int:
    """The largest of `parts` balanced parts of `extent`."""
    return -(-extent // parts)


def axis_part(extent: int, axis: int, grid: GridShape) -> int:
    """Rows that one axis leaves of an extent."""
    if not grid.cuts and grid.at is None:
        return ceil_div(extent, grid.sizes[axis])
    parts = parts_of(extent, axis, grid)
    return max(parts) if grid.at is None else parts[grid.at[axis]]


def parts_of(extent: int, axis: int, grid: GridShape) -> tuple[int, ...]:
    """The rows of every rank of an axis, of so many."""
    return _parts(extent, grid.sizes[axis], grid.cuts_of(axis))


@functools.lru_cache(maxsize=1 << 14)
def _parts(extent: int, size: int, cuts: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(high - low for low, high in pairwise(cut_bounds(extent, size, cuts)))


def local_part(extent: int, cuts: Sequence[tuple[int, int, int]], grid: GridShape) -> int:
    """Rows of a part of a dim after `cuts`, each (blocks, unit, axis), outermost axis first.

    >>> local_part(11, [(1, 1, 0)], GridShape.parse("3"))
    4
    >>> local_part(3 * 10 * 64, [(3, 64, 0), (3, 64, 1)], GridShape.parse("4x2"))
    384
    """
    factors: dict[tuple[int, int], int] = {}
    whole = 1
    for blocks, unit, axis in cuts:
        if (blocks, unit) not in factors:
            factors[blocks, unit] = extent // (blocks * unit)
            whole *= factors[blocks, unit]
        factors[blocks, unit] = axis_part(factors[blocks, unit], axis, grid)
    return extent // max(whole, 1) * math.prod(factors.values())


@functools.lru_cache(maxsize=1 << 18)
def local_shape(shape: tuple[int, ...], layouts: Layouts, grid: GridShape) -> tuple[int, ...]:
    """The shape of a shard."""
    cuts: dict[int, list[tuple[int, int, int]]] = {}
    for axis, layout in enumerate(layouts):
        if isinstance(layout, Shard):
            cuts.setdefault(layout.dim, []).append((layout.blocks, layout.unit, axis))
    return tuple(local_part(n, cuts[dim], grid) if dim in cuts else n for dim, n in enumerate(shape))


def local_bytes(shape: tuple[int, ...], itemsize: int, layouts: Layouts, grid: GridShape) -> int:
    """Bytes of a shard of a tensor with these layouts, one per axis."""
    return math.prod(local_shape(shape, layouts, grid)) * itemsize


def operand_bytes(call: Call, choices: tuple[Choice, ...], grid: GridShape) -> list[int]:
    """Local bytes of every operand, as the call reads it; one choice per axis."""
    return [
        local_bytes(value.shape, ITEMSIZE[value.dtype], tuple(choice.operands[i] for choice in choices), grid)
        for i, value in enumerate(call.operands)
    ]


def result_bytes(call: Call, choices: tuple[Choice, ...], grid: GridShape) -> list[int]:
    """Local bytes of every result, as the call makes it; an unused one takes none."""
    sizes = [ITEMSIZE[value.dtype] if value.name else 0 for value in call.results]
    return [
        size and local_bytes(value.shape, size, tuple(choice.results[i] for choice in choices), grid)
        for i, (value, size) in enumerate(zip(call.results, sizes, strict=True))
    ]


def same_factor(layout: Layout, other: Layout) -> bool:
    """Whether both layouts cut the same factor of the same dim; the cuts then nest and their order matters."""
    return isinstance(layout, Shard) and layout == other


def nested(extent: int, outer: Shard, inner: Shard) -> bool:
    """Whether the factors that two shards of one dim cut are the same one, or lie wholly apart.

    The factor of ``blocks x m x unit`` spans strides unit to unit * m. Two factors lie apart if one's span ends at or
    below the stride where the other's begins, and divides it.

    >>> nested(32, Shard(0, 1, 8), Shard(0, 4, 1))  # batch of 4, then sequence of 8
    True
    >>> nested(32, Shard(0), Shard(0, 4, 1))
    False
    """
    if outer == inner or extent == 0:
        return True
    return outer.unit % (extent // inner.blocks) == 0 or inner.unit % (extent // outer.blocks) == 0


def compatible(shape: tuple[int, ...], layouts: Layouts, grid: GridShape) -> bool:
    """Whether the layouts describe a tensor of this shape: dims exist, readings divide them, shared dims nest."""
    assert len(layouts) == len(grid.sizes), f"{len(layouts)} layouts for {len(grid.sizes)} axes"
    shards = [layout for layout in layouts if isinstance(layout, Shard)]
    if any(shard.dim >= len(shape) or shape[shard.dim] % (shard.blocks * shard.unit) for shard in shards):
        return False
    return all(
        shard.dim != other.dim or nested(shape[shard.dim], shard, other)
        for i, shard in enumerate(shards)
        for other in shards[i + 1 :]
    )
