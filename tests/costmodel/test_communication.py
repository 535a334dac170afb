import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.costmodel import communication as comm
from autopar.costmodel.machine import Link, load
from autopar.layout import Copied, Partial, Replicate, Shard, dual

LINK = Link(3e-6, 2e9)
MACHINE = load("cpu")
COLLECTIVES = [comm.all_gather_seconds, comm.all_sum_seconds, comm.all_to_all_seconds]
LAYOUTS = [Replicate(), Copied(), Partial(), Shard(0), Shard(1)]
PRIMITIVES = sorted(
    {comm.primitive_of(one, other) for one in LAYOUTS for other in LAYOUTS if comm.primitive_of(one, other)}
)
PARTS = ("split", "gather", "all_gather", "reduce_scatter", "take", "zero_fill")


def test_the_table_of_the_design():
    shard, names = Shard(0), comm.primitive_of
    assert [names(Replicate(), x) for x in (shard, Partial(), Copied())] == ["split", "keep", "copy"]
    assert [names(shard, x) for x in (Replicate(), Shard(1), Partial(), Copied())] == [
        "gather", "all_to_all", "zero_fill", "all_gather"
    ]  # fmt: skip
    assert [names(Partial(), x) for x in (Replicate(), shard, Copied())] == ["all_sum", "reduce_scatter", None]
    assert [names(Copied(), x) for x in (Replicate(), shard, Partial())] == ["once", "take", None]
    assert all(names(x, x) is None for x in LAYOUTS)
    assert names(shard, Shard(0, 2, 1)) == "all_to_all"


@pytest.mark.parametrize("before", LAYOUTS)
@pytest.mark.parametrize("after", LAYOUTS)
def test_the_adjoint_costs_what_the_dual_cell_costs(before, after):
    """The adjoint of A -> B is dual(B) -> dual(A): the prices of the two cells are each other's, swapped."""
    name, mirror = comm.primitive_of(before, after), comm.primitive_of(dual(after), dual(before))
    assert (name is None) == (mirror is None)
    if name and mirror:
        sizes = {True: 1000.0, False: 4000.0}
        x, y = sizes[isinstance(before, Shard)], sizes[isinstance(after, Shard)]
        sent, returned, forward, adjoint = comm.price(name, MACHINE, LINK, 4, x, y)
        assert comm.price(mirror, MACHINE, LINK, 4, y, x) == (returned, sent, adjoint, forward)


@given(st.sampled_from(COLLECTIVES), st.integers(1, 64), st.floats(0, 1e9), st.integers(1, 64), st.floats(0, 1e9))
def test_collectives_grow_with_bytes_and_ranks(seconds, ranks, nbytes, more_ranks, more_bytes):
    (p, q), (n, m) = sorted([ranks, more_ranks]), sorted([nbytes, more_bytes])
    assert seconds(LINK, p, n) <= seconds(LINK, p, m) * (1 + 1e-12)
    assert seconds(LINK, p, n) <= seconds(LINK, q, n) * (1 + 1e-12)
    assert seconds(LINK, 1, n) == 0


@given(st.sampled_from(PRIMITIVES), st.integers(1, 16), st.floats(0, 1e9), st.floats(0, 1e9))
def test_primitives_grow_with_bytes_and_ranks(name, ranks, one, other):
    low, high = sorted([one, other])

    def seconds(parts, whole):
        local = whole / parts if name in PARTS else whole
        sizes = (local, whole) if name in ("gather", "all_gather", "zero_fill") else (whole, local)
        return comm.price(name, MACHINE, LINK, parts, *sizes)[2:]

    for less, more in zip(seconds(ranks, low), seconds(ranks, high), strict=True):
        assert 0 <= less <= more * (1 + 1e-12)
    # with more ranks a slice gets shorter, so only what is sent is held against the number of ranks
    if name not in ("split", "take", "gather", "zero_fill"):
        for less, more in zip(seconds(ranks, low), seconds(ranks + 1, low), strict=True):
            assert less <= more * (1 + 1e-12)


@given(st.sampled_from(PRIMITIVES), st.integers(1, 9), st.lists(st.floats(0, 1e8), min_size=1, max_size=5))
def test_many_sizes_at_once_are_priced_as_one_by_one(name, ranks, sizes):
    before = np.array(sizes)
    together = comm.price(name, MACHINE, LINK, ranks, before, before[::-1].copy())
    alone = [comm.price(name, MACHINE, LINK, ranks, x, y) for x, y in zip(sizes, sizes[::-1], strict=True)]
    np.testing.assert_allclose(np.array(together).T, np.array(alone), rtol=1e-14)


def test_an_all_sum_is_a_reduce_scatter_and_an_all_gather_when_large_and_short_when_small():
    large, small = 1e9, 8.0
    assert comm.all_sum_seconds(LINK, 8, large) == pytest.approx(2 * comm.all_gather_seconds(LINK, 8, large))
    assert comm.all_sum_seconds(LINK, 8, small) == pytest.approx(3 * (3e-6 + 8 / 2e9))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (comm.all_gather_seconds(LINK, 5, 1e6), 3 * 3e-6 + 0.8 * 1e6 / 2e9),
        (comm.all_sum_seconds(LINK, 2, 1e6), 3e-6 + 1e6 / 2e9),
        (comm.all_sum_seconds(LINK, 6, 1e9), 6 * 3e-6 + 2 * 5 / 6 * 0.5),
        (comm.all_to_all_seconds(LINK, 8, 64.0), 3 * (3e-6 + 32 / 2e9)),
        (comm.all_to_all_seconds(LINK, 8, 1e9), 7 * 3e-6 + 7 / 8 * 0.5),
        (comm.halo_seconds(LINK, 1e6), 3e-6 + 5e-4),
        (comm.halo_seconds(LINK, 1e6, neighbours=3), 9e-6 + 5e-4),
        (comm.halo_seconds(LINK, 0.0), 0.0),
        (comm.slice_seconds(MACHINE, 3e6), 5e-6 + 6e6 / 1.5e10),
        (comm.fill_seconds(MACHINE, 3e6), 5e-6 + 3e6 / 1.5e10),
    ],
)
def test_values_by_hand(seconds, expected):
    assert seconds == pytest.approx(expected)


def test_an_axis_of_one_rank_costs_nothing():
    assert {comm.price(name, MACHINE, LINK, 1, 1e6, 1e6) for name in PRIMITIVES} == {(0, 0, 0, 0)}


def test_batch_parallelism_of_the_paper():
    """Gholami et al., figure 6d, B=2048, P=512 without model split: 44.5 s per epoch (eq. 4)."""
    weights = [34_848, 307_200, 884_736, 663_552, 442_368, 37_748_736, 16_777_216, 4_096_000]
    link = load("knl").inter
    step = sum(comm.all_sum_seconds(link, 512, 4.0 * words) for words in weights)
    assert step * 1.2e6 / 2048 == pytest.approx(44.49, rel=0.01)


def test_model_parallelism_of_the_paper():
    """Eq. 3: per layer one all-gather of B d_i forward and two sums' worth of ring backward, over P ranks."""
    link, batch, ranks, width = load("knl").inter, 2048, 8, 4096
    gathers = 3 * comm.all_gather_seconds(link, ranks, 4.0 * batch * width)
    assert gathers == pytest.approx(3 * (2e-6 * math.log2(ranks) + 4 * batch * width * 7 / 8 / (6 * 2**30)))
