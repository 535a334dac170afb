"""The live grid: positions, axes, and bounds by cuts."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.errors import AutoparError, ConfigError
from autopar.ir.grid import GridShape
from autopar.ir.layout import even_bounds
from autopar.runtime import Axis, Grid, simulate
from autopar.runtime.transport.world import default_world


@pytest.mark.parametrize("sizes", [(1,), (4,), (2, 3), (2, 1, 3), (3, 2, 2)])
def test_rank_is_the_row_major_index_of_the_position(sizes):
    positions = list(itertools.product(*map(range, sizes)))

    def rank_main():
        grid = Grid("x".join(map(str, sizes)))
        assert [axis.index for axis in grid.axes] == list(grid.position)
        assert [axis.size for axis in grid.axes] == list(sizes)
        members = [axis.comm.gather_objects(grid.position) for axis in grid.axes]
        return grid.rank, grid.position, members

    results = simulate(math.prod(sizes), rank_main)
    assert [result[:2] for result in results] == list(enumerate(positions))
    for _, position, members in results:
        for i, line in enumerate(members):  # the ranks of axis i differ from this one in coordinate i only
            assert line == [[*position[:i], at, *position[i + 1 :]] for at in range(sizes[i])]


@pytest.mark.parametrize(
    ("text", "positions", "sizes"),
    [("stage:2x3", 2, (3,)), ("pipe=stage:3,data=2", 3, (2,)), ("stage:2", 2, ()), ("data=queue:2,model=2", 2, (2,))],
)
def test_a_place_axis_or_a_queue_divides_the_ranks_into_groups_of_neighbours(text, positions, sizes):
    def rank_main():
        grid = Grid(text)
        outer = grid.queue if "queue" in text else grid.place
        assert outer is not None
        assert outer is grid.outer
        assert (outer.size, grid.group.size, grid.position) == (positions, math.prod(sizes), grid.position)
        axes = [axis.comm.gather_objects(grid.rank) for axis in grid.axes]
        return outer.index, grid.group.gather_objects(grid.rank), outer.comm.gather_objects(grid.rank), axes

    for rank, (place, group, line, axes) in enumerate(simulate(positions * math.prod(sizes), rank_main)):
        size = math.prod(sizes)
        assert place == rank // size
        assert group == list(range(place * size, (place + 1) * size))
        assert line == list(range(rank % size, positions * size, size))
        assert all(axis == group for axis in axes)


NAMES = st.lists(st.sampled_from(["data", "model", "pipe", "x1"]), min_size=1, max_size=3, unique=True)


@given(
    NAMES, st.lists(st.integers(1, 5), min_size=3, max_size=3), st.sampled_from(["", "stage:", "queue:"]), st.booleans()
)
def test_a_grid_is_written_as_it_is_read(names, sizes, first, named):
    parts = [f"{name}={first * (i == 0)}{size}" for i, (name, size) in enumerate(zip(names, sizes, strict=False))]
    text = ",".join(parts) if named else first + "x".join(map(str, sizes[: len(names)]))
    shape = GridShape.parse(text)
    assert (str(shape), shape.size) == (text, math.prod(sizes[: len(names)]))
    assert (shape.positions, shape.replicas) == (
        sizes[0] if first == "stage:" else 1,
        sizes[0] if first == "queue:" else 1,
    )
    assert GridShape.parse(str(shape.space)) == shape.space if shape.space.names else shape.space.size == 1


@pytest.mark.parametrize("text", ["2xstage:2", "data=2,pipe=stage:2", "a=stage:2,b=queue:2", "a=queue:2,b=stage:2"])
def test_a_place_axis_or_a_queue_that_is_not_the_first_is_refused(text):
    with pytest.raises(ConfigError, match=r"place axis|queue is not the first|not a grid"):
        GridShape.parse(text)


def on_an_axis(ranks, function):
    return simulate(ranks, lambda: function(Axis("data", default_world())))


def test_a_grid_begins_with_its_cuts():
    cuts = {"model": (0, 2 / 3, 1)}

    def rank_main():
        grid = Grid("data=2,model=2", cuts=cuts)
        assert Grid(grid.shape).shape == grid.shape
        return [axis.cuts for axis in grid.axes], [axis.bounds(12) for axis in grid.axes], str(grid.shape)

    for result in simulate(4, rank_main):
        assert result == ([None, (0.0, 2 / 3, 1.0)], [(0, 6, 12), (0, 8, 12)], "data=2,model=2")


@pytest.mark.parametrize(
    ("cuts", "said"),
    [
        ({"modle": (0, 0.5, 1)}, "modle: no axis; did you mean 'model'"),
        ({"model": (0, 1)}, "model: 2 ranks cannot be cut at"),
        ({"data": (0, 0.75, 0.5)}, "data: 2 ranks cannot be cut at"),
        ({"data": (0, 1.5, 1)}, "data: 2 ranks cannot be cut at"),
    ],
)
def test_cuts_that_do_not_fit_the_grid(cuts, said):
    with pytest.raises(ConfigError) as caught:
        GridShape.parse("data=2,model=2").cut(cuts)
    assert said in str(caught.value)


@given(ranks=st.integers(1, 5), extent=st.integers(0, 40))
def test_bounds_without_cuts_are_balanced(ranks, extent):
    for rank, (bounds, part) in enumerate(on_an_axis(ranks, lambda axis: (axis.bounds(extent), axis.part(extent)))):
        assert bounds == even_bounds(extent, ranks)
        assert part == bounds[rank + 1] - bounds[rank]


@given(inner=st.lists(st.floats(0, 1), max_size=4).map(sorted), extent=st.integers(0, 10**6))
def test_bounds_by_cuts_are_monotone_and_whole(inner, extent):
    cuts = (0.0, *inner, 1.0)

    def bounds(axis):
        axis.bounds(extent)
        axis.move(cuts)
        return axis.bounds(extent), axis.cuts

    for found, kept in on_an_axis(len(inner) + 1, bounds):
        assert kept == cuts
        assert (found[0], found[-1]) == (0, extent)
        assert list(found) == sorted(found)
        assert all(abs(bound - cut * extent) <= 0.5 for bound, cut in zip(found, cuts, strict=True))


def test_halves_are_rounded_up():
    def bounds(axis):
        axis.move((0, 0.5, 1))
        return [axis.bounds(extent)[1] for extent in range(8)]

    assert on_an_axis(2, bounds)[0] == [0, 1, 1, 2, 2, 3, 3, 4]


def test_cuts_can_be_taken_back():
    def bounds(axis):
        axis.move((0, 0.75, 1))
        moved = axis.bounds(8)
        axis.move(None)
        return moved, axis.bounds(8)

    assert on_an_axis(2, bounds)[0] == ((0, 6, 8), (0, 4, 8))


@pytest.mark.parametrize("cuts", [(0, 1), (0, 0.5, 0.9), (0.1, 0.5, 1), (0, 0.7, 0.6, 1), (0, math.nan, 1), ()])
def test_bad_cuts_are_refused(cuts):
    with pytest.raises(ConfigError, match="rise from 0 to 1"):
        on_an_axis(2, lambda axis: axis.move(cuts))


def test_a_grid_says_where_it_is():
    assert simulate(2, lambda: repr(Grid("data=2")))[1] == "Grid('data=2', rank 1 at (1,))"
    with pytest.raises(AutoparError, match="not a grid"):
        simulate(1, lambda: Grid("2by2"))
