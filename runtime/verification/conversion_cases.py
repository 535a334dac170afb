"""A random family of cases for the adjoint test of every primitive: which map, between which layouts, at which shapes.

A case is drawn for one axis of a live grid, alike on all of its ranks. The extent that the axis cuts is ``blocks x m x unit``
with m from 0 to a little more than twice the axis's size, so that parts are even, uneven and empty; the axis's cuts
are balanced, or random and so with larger and empty parts. Another axis of the grid may have split another dim before.
Windows are drawn for all axes of the grid at once, one spatial dim each.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from autopar.ir.grid import GridShape
from autopar.ir.layout import Layout, Shard
from autopar.runtime.grid.grid import Axis, Grid
from autopar.runtime.primitives.conversion_table import CONVERSIONS, COPIED, PARTIAL, SHARD, conversion
from autopar.runtime.primitives.halo import halo
from autopar.runtime.transport.base import Comm
from autopar.runtime.verification.adjoint_test import conversion_error
from autopar.runtime.windowed.interpolation import interpolate
from autopar.runtime.windowed.operators import avg_pool, conv, conv_transpose, pad

NDIM = 3
WINDOWS = ("conv", "conv_transpose", "avg_pool", "pad", "interpolate")


@dataclass(frozen=True, slots=True)
class ConversionCase:
    """A linear map between the layouts `source` and `target` over `comm`, and this rank's shape of its operand."""

    function: Callable[[Tensor], Tensor]
    source: Layout
    target: Layout
    shape: tuple[int, ...]
    comm: Comm

    def error(self, seed: int) -> float:
        """The relative gap of the adjoint test. Collective over `comm`."""
        return conversion_error(self.function, self.source, self.target, self.shape, self.comm, seed)


@dataclass(frozen=True, slots=True)
class Entry:
    """A primitive: how its cases are drawn, and from which layout it leads to which."""

    draw: Callable[[random.Random, Grid], ConversionCase]
    source: Layout
    target: Layout


def _conversion(source: Layout, target: Layout, draw: random.Random, grid: Grid) -> ConversionCase:
    """A case of one cell, over one axis of the grid."""
    axis = _cut_axes(draw, grid)
    a, b = (_shard(draw) if isinstance(layout, Shard) else layout for layout in (source, target))
    shape = list(_shape(draw, grid, axis))
    for dim in range(NDIM):
        readings = [s for s in (a, b) if isinstance(s, Shard) and s.dim == dim]
        if readings:
            piece = math.prod(reading.blocks * reading.unit for reading in readings)
            shape[dim] = piece * draw.randint(0, max(2, (2 * axis.size + 3) // (piece if len(readings) > 1 else 1)))
    extent = 0
    if isinstance(a, Shard):
        extent = shape[a.dim]
        shape[a.dim] = a.blocks * a.unit * axis.part(extent // (a.blocks * a.unit))
    return ConversionCase(conversion(axis, a, b, extent), a, b, tuple(shape), axis.comm)


def _halo(draw: random.Random, grid: Grid) -> ConversionCase:
    """Rows that every rank wants of a dim: any interval, beyond the dim too, overlapping, disjoint or empty."""
    axis = _cut_axes(draw, grid)
    extent, dim = draw.randint(0, 3 * axis.size), draw.randrange(NDIM)
    windows = []
    for _ in range(axis.size):
        start = draw.randint(-4, extent + 3)
        windows.append((start, start + draw.randint(0, extent + 3)))
    shape = list(_shape(draw, grid, axis))
    shape[dim] = axis.part(extent)
    return ConversionCase(lambda x: halo(x, dim, axis, extent, windows), SHARD, SHARD, tuple(shape), axis.comm)


def _window(kind: str, draw: random.Random, grid: Grid) -> ConversionCase:
    """A windowed operator, linear in its operand, over a spatial dim per axis of the grid."""
    _cut_axes(draw, grid)
    kernel, stride = ([draw.randint(1, 4) for _ in grid.axes] for _ in range(2))
    dilation = [draw.randint(1, 2) for _ in grid.axes]
    least = [2 * (k - 1) + 2 for k in kernel]
    extents = [draw.randint(n, n + 2 * axis.size + 3) for n, axis in zip(least, grid.axes, strict=True)]
    over = {2 + i: (axis, extent) for i, (axis, extent) in enumerate(zip(grid.axes, extents, strict=True))}
    padding = [draw.randint(0, k // 2) for k in kernel]
    parts = [axis.part(extent) for axis, extent in zip(grid.axes, extents, strict=True)]
    weight = torch.randn(2, 2, *kernel, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = [width for p in reversed(padding) for width in (p, p + 1)]
    mode = draw.choice(("zeros", "reflect", "replicate", "circular"))
    larger = [draw.randint(1, 2 * extent) for extent in extents]
    smooth = draw.choice(("nearest", "area", {1: "linear", 2: "bilinear", 3: "trilinear"}[len(kernel)]))
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "conv": lambda x: conv(x, weight, None, stride, padding, dilation, over=over, mode=mode),
        "conv_transpose": lambda x: conv_transpose(x, weight, None, stride, padding, dilation=dilation, over=over),
        "avg_pool": lambda x: avg_pool(x, kernel, stride, padding, over=over),
        "pad": lambda x: pad(x, ends, mode, over=over),
        "interpolate": lambda x: interpolate(x, larger, mode=smooth, over=over),
    }
    return ConversionCase(functions[kind], SHARD, SHARD, (2, 2, *parts), grid.comm)


def _cell(source: Layout, target: Layout) -> Entry:
    return Entry(partial(_conversion, source, target), source, target)


FAMILY: Mapping[str, Entry] = {
    **{function.__name__: _cell(source, target) for function, source, target in CONVERSIONS},
    "copy(all_sum)": _cell(PARTIAL, COPIED),
    "keep(once)": _cell(COPIED, PARTIAL),
    "halo": Entry(_halo, SHARD, SHARD),
    **{kind: Entry(partial(_window, kind), SHARD, SHARD) for kind in WINDOWS},
}


def random_grids(draw: random.Random, ranks: int, count: int) -> list[GridShape]:
    """Grids of 1 to `ranks` ranks and 1 to 3 axes; the first has all ranks on one axis."""
    sizes = [
        axes
        for number in range(1, ranks + 1)
        for length in (1, 2, 3)
        for axes in itertools.product(range(1, number + 1), repeat=length)
        if math.prod(axes) == number
    ]
    chosen = [(ranks,), *(draw.choice(sizes) for _ in range(count - 1))]
    return [GridShape.parse("x".join(map(str, axes))) for axes in chosen]


def _cut_axes(draw: random.Random, grid: Grid) -> Axis:
    """Cut every axis evenly or at random fractions; returns the one that the case is about."""
    for axis in grid.axes:
        inner = sorted(draw.choice((0.0, 1.0, draw.random())) for _ in range(axis.size - 1))
        axis.move((0.0, *inner, 1.0) if draw.random() < 0.5 else None)
    return draw.choice(grid.axes)


def _shard(draw: random.Random) -> Shard:
    return Shard(draw.randrange(NDIM), draw.choice((1, 1, 2, 3)), draw.choice((1, 1, 2, 3)))


def _shape(draw: random.Random, grid: Grid, axis: Axis) -> tuple[int, ...]:
    """Extents of which other axes may have taken a part, so that the ranks along `axis` are not alike across the grid."""
    extents = [draw.randint(1, 4) for _ in range(NDIM)]
    for other in grid.axes:
        if other is not axis and draw.random() < 0.5:
            dim = draw.randrange(NDIM)
            extents[dim] = other.part(extents[dim] * other.size)
    return tuple(extents)
