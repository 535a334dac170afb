"""Cutting and gathering stored tensors, against row numbers worked out factor by factor."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autopar.errors import ProgramMismatch
from autopar.ir.layout import Copied, Replicate, Shard
from autopar.runtime import Grid, simulate
from autopar.runtime.parameters.shards import (
    cuts,
    gather_whole,
    local_shape,
    rows,
    take_part,
)
from autopar.runtime.program.plan_reader import TensorSpec
from autopar.runtime.session.state import ModelState


@st.composite
def cases(draw):
    """A grid, cuts for some axes, dims as products of factors, and for every axis one factor to cut or none."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).filter(lambda sizes: math.prod(sizes) <= 8))
    dims = draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=2))
    factors = [(dim, i) for dim, extents in enumerate(dims) for i in range(len(extents))]
    chosen = [draw(st.none() | st.sampled_from(factors)) for _ in sizes]
    fractions = st.lists(st.integers(0, 8), min_size=2, max_size=2).map(sorted)
    moved = [draw(st.none() | fractions) for _ in sizes]
    return sizes, dims, chosen, moved


def layouts_of(dims, chosen):
    layouts = []
    for choice in chosen:
        if choice is None:
            layouts.append(Replicate() if len(layouts) % 2 else Copied())
        else:
            dim, i = choice
            layouts.append(Shard(dim, math.prod(dims[dim][:i]), math.prod(dims[dim][i + 1 :])))
    return tuple(layouts)


def oracle(dims, chosen, grid):
    """Row numbers per dim: the coordinates of every factor are cut by the axes that chose it, in order."""
    found = []
    for dim, extents in enumerate(dims):
        ranges = []
        for i, extent in enumerate(extents):
            mine = list(range(extent))
            for axis, choice in zip(grid.axes, chosen, strict=True):
                if choice == (dim, i):
                    bounds = axis.bounds(len(mine))
                    mine = mine[bounds[axis.index] : bounds[axis.index + 1]]
            ranges.append(mine)
        strides = [math.prod(extents[i + 1 :]) for i in range(len(extents))]
        points = itertools.product(*ranges)
        found.append([sum(at * stride for at, stride in zip(point, strides, strict=True)) for point in points])
    return found


@settings(max_examples=50, deadline=None)
@given(cases())
def test_parts_are_the_rows_of_the_factors_and_gather_to_the_whole(case):
    sizes, dims, chosen, moved = case
    shape = tuple(math.prod(extents) for extents in dims)
    whole = torch.arange(math.prod(shape)).reshape(shape)
    layouts = layouts_of(dims, chosen)

    def rank():
        grid = Grid("x".join(map(str, sizes)))
        for axis, cut in zip(grid.axes, moved, strict=True):
            if cut and axis.size == 3:
                axis.move((0.0, cut[0] / 8, cut[1] / 8, 1.0))
            elif cut and axis.size == 2:
                axis.move((0.0, cut[0] / 8, 1.0))
        part = take_part(whole, layouts, grid.axes)
        expected = oracle(dims, chosen, grid)
        assert (
            part.tolist()
            == whole[torch.meshgrid(*(torch.tensor(one, dtype=torch.long) for one in expected), indexing="ij")].tolist()
        )
        assert part.shape == local_shape(shape, layouts, grid.axes)
        assert part.is_contiguous()
        runs = rows(shape, layouts, grid.axes)
        assert [[i for a, b in one for i in range(a, b)] for one in runs] == expected
        assert torch.equal(gather_whole(part, shape, layouts, grid.axes), whole)

    simulate(math.prod(sizes), rank)


def test_a_part_is_not_a_view_of_the_whole():
    def rank():
        whole = torch.zeros(4, 3)
        for layout in (Replicate(), Shard(0), Shard(1)):
            part = take_part(whole, (layout,), Grid("2").axes)
            assert part.untyped_storage().nbytes() == part.numel() * 4
            assert part.data_ptr() != whole.data_ptr()

    simulate(2, rank)


def test_axes_that_cut_across_each_other_are_refused():
    def rank():
        with pytest.raises(ProgramMismatch, match="do not overlap"):
            cuts((12,), (Shard(0, 1, 1), Shard(0, 3, 1)), Grid("2x2").axes)

    simulate(4, rank)


def test_a_gradient_that_some_rank_lacks_is_zero_there():
    """torch may find no gradient where a rank has no rows; the others gather theirs all the same."""

    def rank():
        grid = Grid("3")
        (axis,) = grid.axes
        axis.move((0.0, 0.5, 0.5, 1.0))
        parts = {name: nn.Parameter(torch.ones(axis.part(4), 3)) for name in ("seen", "unseen")}
        if axis.index != 1:
            parts["seen"].grad = torch.full_like(parts["seen"], axis.index + 1.0)
        layouts = {TensorSpec(name, (4, 3), torch.float32): (Shard(0),) for name in parts}
        return ModelState(grid, layouts, parts, None).gradients()

    for found in simulate(3, rank):
        assert found.keys() == {"seen"}
        assert found["seen"].tolist() == [[1.0] * 3] * 2 + [[3.0] * 3] * 2
