"""The rows of a dim that a rank holds, against a walk over all rows."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.ir.layout import even_bounds
from autopar.runtime import Grid, simulate
from autopar.runtime.grid.shard_positions import axes_of, extent_of, rows_of, take_rows, whole_shape


def _owner(row, blocks, unit, extent, parts):
    """The rank whose part of the middle factor has this row."""
    bounds = even_bounds(extent // (blocks * unit), parts)
    place = row // unit % (extent // (blocks * unit))
    return max(rank for rank in range(parts) if bounds[rank] <= place)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 3), st.integers(1, 4))
def test_every_row_is_its_owners(blocks, middle, unit, parts):
    extent = blocks * middle * unit

    def rank():
        axis = Grid(f"data={parts}").axes[0]
        return list(map(int, rows_of((axis, extent, blocks, unit))))

    found = simulate(parts, rank)
    assert found == [
        [row for row in range(extent) if _owner(row, blocks, unit, extent, parts) == rank] for rank in range(parts)
    ]


def test_two_axes_cut_one_dim_the_outer_one_first():
    def rank():
        data, model = Grid("data=2,model=3").axes
        place = ((data, 11), (model, 11))
        assert axes_of(place) == (data, model)
        assert extent_of(place) == 11
        return rows_of(place)

    assert simulate(6, rank) == [range(2), range(2, 4), range(4, 6), range(6, 8), range(8, 10), range(10, 11)]


def test_two_axes_cut_two_factors_of_one_dim():
    def rank():
        data, model = Grid("data=2,model=2").axes
        place = ((data, 12, 1, 4), (model, 12, 3, 1))
        x = torch.arange(24).view(2, 12)
        assert whole_shape((2, 4), {1: place}) == (2, 12)
        return take_rows(x, 1, rows_of(place))[0].tolist()

    found = simulate(4, rank)
    assert found == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9], [10, 11]]
    assert math.fsum(map(len, found)) == 12
