"""Partitions: places, transposes, groups, decompositions, and which go together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autopar.errors import ConfigError, ProgramMismatch
from autopar.ir.grid import ravel, unravel
from autopar.runtime import Partition, simulate
from autopar.runtime.partitions.partition import copy_groups
from autopar.runtime.transport.simulation import Members, World
from autopar.runtime.transport.threads import ThreadComm
from autopar.runtime.transport.world import default_world

RANKS = 60
WORLD = ThreadComm(World(RANKS, 1.0), Members(tuple(range(RANKS))), 5)  # seen by rank 5, without the others


def partition(*shape, ranks=()):
    return Partition(WORLD, shape, ranks)


def test_a_rank_finds_itself():
    cube = partition(2, 2, 2)
    assert (cube.size, cube.dims, cube.active, cube.place, cube.index) == (8, 3, True, 5, (1, 0, 1))
    chosen = partition(3, 1, ranks=(7, 5, 0))
    assert (chosen.place, chosen.index) == (1, (1, 0))
    outside = partition(2, ranks=(0, 9))
    assert (outside.active, outside.place, outside.index) == (False, None, None)
    assert str(chosen) == "3x1 on ranks 7, 5, 0"
    assert partition(2) == partition(2, ranks=(0, 1)) != partition(2, ranks=(1, 0))


@given(shape=st.lists(st.integers(1, 3), max_size=3))
def test_transposed_reverses_the_index_of_every_rank(shape):
    straight = partition(*shape)
    turned = straight.transposed()
    assert turned.shape == tuple(reversed(shape))
    assert turned.transposed() == straight
    for rank in straight.ranks:
        index = unravel(straight.ranks.index(rank), straight.shape)
        assert ravel(index, straight.shape) == straight.ranks.index(rank)
        assert unravel(turned.ranks.index(rank), turned.shape) == index[::-1]


GO = [("4", "1"), ("2x3", "1"), ("3x4", "3x1"), ("4x4x3", "1x1x3"), ("3x4", "1x4"), ("3x4", "4"), ("2x2", "2x2")]
FAIL = [("3x3x2", "1x1x3", [2]), ("3x1", "1x3", [1]), ("2x3", "3x3", [0]), ("2x3", "3x2", [0, 1])]


def parse(text):
    return partition(*map(int, text.split("x")))


@pytest.mark.parametrize(("large", "small"), GO)
def test_partitions_that_go_together(large, small):
    """Who copies whom, by NumPy's own broadcasting of the array of ranks."""
    a, b = parse(small), parse(large)
    found = copy_groups(a, b)
    wanted = torch.tensor(a.ranks).reshape(a.shape).broadcast_to(b.shape).flatten().tolist()
    assert [found.groups[i][0] for i in found.number] == wanted
    for rank, i in zip(b.ranks, found.number, strict=True):
        assert rank in found.groups[i]
    assert all(len(set(group)) == len(group) for group in found.groups)


@pytest.mark.parametrize(("large", "small", "dims"), FAIL)
def test_partitions_that_do_not(large, small, dims):
    with pytest.raises(ConfigError, match="rule") as caught:
        copy_groups(parse(small), parse(large))
    assert [f"- dim {dim}:" in str(caught.value) for dim in range(3)] == [dim in dims for dim in range(3)]


def test_only_the_smaller_one_is_extended():
    with pytest.raises(ConfigError, match="2 dims onto 1"):
        copy_groups(parse("1x3"), parse("3"))


def test_transposed_pairs():
    assert copy_groups(parse("1x3").transposed(), parse("3x4")).number == (0,) * 4 + (1,) * 4 + (2,) * 4
    found = copy_groups(parse("4x1"), parse("3x4").transposed())  # the rank at (i, j) of 3x4 copies row j of 4x1
    turned = parse("3x4").transposed()
    assert {rank: i for rank, i in zip(turned.ranks, found.number, strict=True)} == {
        rank: rank % 4 for rank in range(12)
    }


def test_what_is_no_partition():
    with pytest.raises(ConfigError) as caught:
        partition(2, 0, ranks=(1, 1, 60))
    assert "dim 1 has extent 0" in str(caught.value)
    assert "ranks 60 are not" in str(caught.value)
    assert "rank 1 stands twice" in str(caught.value)
    with pytest.raises(ConfigError, match="3 ranks for 4 places"):
        partition(2, 2, ranks=(0, 1, 2))


def test_cuts():
    cut = partition(2, 3).cut((5, 7))
    assert cut.bounds == ((0, 3, 5), (0, 3, 5, 7))
    assert cut.box(5) == ((3, 5), (5, 7))
    assert cut.box(6) is None
    assert partition(1).cut((2, 3)).box(0) == ((0, 2), (0, 3))
    assert partition(2, 3).part((5, 7)) == (slice(3, 5), slice(5, 7))
    assert partition(2, 2).part((5, 7)) == (slice(0, 0), slice(0, 0))
    with pytest.raises(ProgramMismatch, match="as many dims"):
        partition(2).cut((5, 7))
    with pytest.raises(ProgramMismatch, match="dim 1: 7 rows in 3 parts"):
        partition(2, 3).cut((5, 7), [(0, 2, 5), (0, 4, 3, 7)])


def test_groups_and_axes():
    def rank_main():
        comm = default_world()
        some = Partition(comm, (2, 3), (6, 4, 2, 5, 3, 1))
        axes = some.axes()
        sums = []
        for dims in ((0,), (1,), (0, 1), ()):
            group = some.group(dims)
            total = torch.tensor([comm.rank])
            if group is not None:
                group.all_reduce(total)
            sums.append(total.item())
        before = len(some._groups)
        some.free()
        return [(axis.size, axis.index) for axis in axes], sums, before, len(some._groups)

    results = simulate(7, rank_main)
    assert results[0] == ([], [0, 0, 0, 0], 4, 0)
    assert results[6] == ([(2, 0), (3, 0)], [11, 12, 21, 6], 4, 0)
    assert results[3] == ([(2, 1), (3, 1)], [7, 9, 21, 3], 4, 0)
