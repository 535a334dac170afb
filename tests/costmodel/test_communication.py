import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.costmodel import collectives
from autopar.costmodel import communication as comm
from autopar.costmodel.collectives import Reach
from autopar.costmodel.redistribution import conversion_matrix
from autopar.ir import conversions
from autopar.ir.bucketing import BUCKET_BYTES
from autopar.ir.grid import GridShape
from autopar.ir.layout import Copied, Partial, Replicate, Shard, dual
from autopar.ir.machine import LINK_MOVES, LOCAL_MOVES, Fit, Link, load

LINK = Link(3e-6, 2e9)
MACHINE = load("cpu")
LAYOUTS = [Replicate(), Copied(), Partial(), Shard(0), Shard(1)]
PRIMITIVES = sorted(
    {
        conversions.primitive_of(one, other)
        for one in LAYOUTS
        for other in LAYOUTS
        if conversions.primitive_of(one, other)
    }
)
PARTS = ("split", "gather", "all_gather", "reduce_scatter", "take", "zero_fill")
SENT = tuple(move for move in LINK_MOVES if move != "halo")


def over(ranks, link=LINK):
    return Reach(ranks, 1, link, link)


@st.composite
def fits(draw, place, move):
    """Any fit: few pieces, fast or slow, in any order."""
    until = tuple(sorted(draw(st.sets(st.floats(64, 1e8), max_size=2))))
    beta = tuple(draw(st.floats(1e6, 1e11)) for _ in range(len(until) + 1))
    ranks = 1 if place == "local" else draw(st.integers(2, 9))
    return Fit(place, move, ranks, draw(st.floats(0, 1e-3)), until, beta)


@st.composite
def measured(draw, places=("local", "intra", "inter"), base=MACHINE):
    """A machine with fits of some movements."""
    kinds = [(place, move) for place in places for move in (LOCAL_MOVES if place == "local" else LINK_MOVES)]
    chosen = draw(st.sets(st.sampled_from(kinds)))
    return dataclasses.replace(base, fits=tuple(draw(fits(*one)) for one in sorted(chosen)))


MACHINES = st.one_of(st.just(MACHINE), measured())


def test_the_table_of_the_design():
    shard, names = Shard(0), conversions.primitive_of
    assert [names(Replicate(), x) for x in (shard, Partial(), Copied())] == ["split", "keep", "copy"]
    assert [names(shard, x) for x in (Replicate(), Shard(1), Partial(), Copied())] == [
        "gather", "all_to_all", "zero_fill", "all_gather"
    ]  # fmt: skip
    assert [names(Partial(), x) for x in (Replicate(), shard, Copied())] == ["all_sum", "reduce_scatter", None]
    assert [names(Copied(), x) for x in (Replicate(), shard, Partial())] == ["once", "take", None]
    assert all(names(x, x) is None for x in LAYOUTS)
    assert names(shard, Shard(0, 2, 1)) == "all_to_all"
    assert sorted(conversions.PRIMITIVES) == PRIMITIVES


@pytest.mark.parametrize("before", LAYOUTS)
@pytest.mark.parametrize("after", LAYOUTS)
def test_the_adjoint_costs_what_the_dual_cell_costs(before, after):
    """The adjoint of A -> B is dual(B) -> dual(A): the prices of the two cells are each other's, swapped."""
    name, mirror = conversions.primitive_of(before, after), conversions.primitive_of(dual(after), dual(before))
    assert (name is None) == (mirror is None)
    if name and mirror:
        sizes = {True: 1000.0, False: 4000.0}
        x, y = sizes[isinstance(before, Shard)], sizes[isinstance(after, Shard)]
        sent, returned, forward, adjoint = comm.price(name, MACHINE, over(4), x, y)
        assert comm.price(mirror, MACHINE, over(4), y, x) == (returned, sent, adjoint, forward)


@given(st.sampled_from(SENT), MACHINES, st.integers(1, 64), st.floats(0, 1e9), st.integers(1, 64), st.floats(0, 1e9))
def test_movements_grow_with_bytes_and_ranks(move, machine, ranks, nbytes, more_ranks, more_bytes):
    (p, q), (n, m) = sorted([ranks, more_ranks]), sorted([nbytes, more_bytes])
    for across in (1, 3):

        def seconds(ranks, size, across=across):
            return comm.seconds(move, machine, Reach(ranks, across, LINK, Link(1e-4, 1e8)), size)

        assert 0 <= seconds(p, n) <= seconds(p, m) * (1 + 1e-9)
        assert across > 1 or seconds(p, n) <= seconds(q, n) * (1 + 1e-9)
        assert across > 1 or seconds(1, n) == 0


@given(st.sampled_from(PRIMITIVES), MACHINES, st.integers(1, 16), st.floats(0, 1e9), st.floats(0, 1e9))
def test_primitives_grow_with_bytes_and_ranks(name, machine, ranks, one, other):
    low, high = sorted([one, other])

    def seconds(parts, whole):
        local = whole / parts if name in PARTS else whole
        sizes = (local, whole) if name in ("gather", "all_gather", "zero_fill") else (whole, local)
        return comm.price(name, machine, over(parts), *sizes)[2:]

    for less, more in zip(seconds(ranks, low), seconds(ranks, high), strict=True):
        assert 0 <= less <= more * (1 + 1e-9)
    # with more ranks a slice gets shorter, so only what is sent is held against the number of ranks
    if name not in ("split", "take", "gather", "zero_fill"):
        for less, more in zip(seconds(ranks, low), seconds(ranks + 1, low), strict=True):
            assert less <= more * (1 + 1e-9)


@given(st.sampled_from(PRIMITIVES), MACHINES, st.integers(1, 9), st.lists(st.floats(0, 1e8), min_size=1, max_size=5))
def test_many_sizes_at_once_are_priced_as_one_by_one(name, machine, ranks, sizes):
    before = np.array(sizes)
    together = comm.price(name, machine, over(ranks), before, before[::-1].copy())
    alone = [comm.price(name, machine, over(ranks), x, y) for x, y in zip(sizes, sizes[::-1], strict=True)]
    np.testing.assert_allclose(np.array(together).T, np.array(alone), rtol=1e-9, atol=1e-18)


@settings(max_examples=30, deadline=None)
@given(measured(), st.sampled_from(["2", "4", "2x2", "4x2"]), st.booleans(), st.sampled_from([4, 1 << 20]))
def test_no_detour_is_cheaper_whatever_was_measured(machine, grid, gradient, itemsize):
    """A chain may pass through Partial where prices are measured, and so no third layout helps."""
    shape = GridShape.parse(grid)
    whole = [Replicate(), Copied(), Partial()] if gradient else [Replicate()]
    layouts = [(one, *[Replicate()] * (len(shape.sizes) - 1)) for one in (*whole, Shard(0), Shard(1))]
    costs = conversion_matrix((16, 16), itemsize, gradient, layouts, layouts, shape, machine)
    detours = costs[:, :, None] + costs[None, :, :]
    assert (costs <= detours.min(axis=1) * (1 + 1e-9)).all()


def test_a_slow_gather_is_replaced_by_a_fast_sum():
    flat = [Fit("local", move, 1, 0.0, (), (1e12,)) for move in LOCAL_MOVES]
    slow, fast = Fit("intra", "gather", 2, 1.0, (), (1e9,)), Fit("intra", "sum", 2, 1e-6, (), (1e9,))
    machine = dataclasses.replace(MACHINE, fits=(*flat, slow, fast))
    grid = GridShape.parse("2")
    (cost,) = conversion_matrix((8,), 4, True, [(Shard(0),)], [(Replicate(),)], grid, machine)[0]
    assert cost == pytest.approx(1e-6 + 32 / 1e9, rel=0.01)


# ---- by formula


def test_by_formula_the_cheapest_algorithm_counts_and_a_copy_to_pack():
    reach = Reach(2, 3, LINK, Link(1e-4, 1e8))
    for move, packed in (("gather", 1), ("scatter", 1), ("all_to_all", 1), ("sum", 0)):
        wire = collectives.seconds(move, reach, 1e6)
        assert comm.seconds(move, MACHINE, reach, 1e6) == pytest.approx(wire + packed * (5e-6 + 2e6 / 1.5e10))


@pytest.mark.parametrize(
    ("move", "ranks", "size", "expected"),
    [
        ("gather", 5, 1e6, 3 * 3e-6 + 0.8 * 1e6 / 2e9 + 5e-6 + 2e6 / 1.5e10),
        ("sum", 2, 1e6, 3e-6 + 1e6 / 2e9),
        ("sum", 6, 1e9, 6 * 3e-6 + 2 * 5 / 6 * 0.5),
        ("sum", 8, 8.0, 3 * (3e-6 + 8 / 2e9)),
        ("all_to_all", 8, 64.0, 3 * (3e-6 + 32 / 2e9) + 5e-6 + 128 / 1.5e10),
        ("all_to_all", 8, 1e9, 7 * 3e-6 + 7 / 8 * 0.5 + 5e-6 + 2e9 / 1.5e10),
        ("slice", 4, 3e6, 5e-6 + 6e6 / 1.5e10),
        ("fill", 4, 3e6, 5e-6 + 3e6 / 1.5e10),
        ("zeros", 4, 3e6, 5e-6 + 3e6 / 1.5e10),
    ],
)
def test_values_by_hand(move, ranks, size, expected):
    assert comm.seconds(move, MACHINE, over(ranks), size) == pytest.approx(expected)


def test_halos_by_hand():
    assert comm.halo_seconds(MACHINE, over(4), 1e6) == pytest.approx(3e-6 + 5e-4)
    assert comm.halo_seconds(MACHINE, over(4), 1e6, neighbours=3) == pytest.approx(9e-6 + 5e-4)
    assert comm.halo_seconds(MACHINE, over(4), 0.0) == 0
    assert comm.halo_seconds(MACHINE, over(1), 1e6) == 0
    two = Reach(2, 2, LINK, Link(1e-4, 1e8))  # one of a node's two ranks sends to the next node
    assert comm.halo_seconds(MACHINE, two, 1e6) == pytest.approx(1e-4 + 5e5 / 1e8)


def test_an_axis_of_one_rank_costs_nothing():
    assert {comm.price(name, MACHINE, over(1), 1e6, 1e6) for name in PRIMITIVES} == {(0, 0, 0, 0)}


def test_batch_parallelism_of_the_paper():
    """Gholami et al., figure 6d, B=2048, P=512 without model split: 44.5 s per epoch (eq. 4)."""
    weights = [34_848, 307_200, 884_736, 663_552, 442_368, 37_748_736, 16_777_216, 4_096_000]
    reach = over(512, load("knl").inter)
    step = sum(comm.seconds("sum", load("knl"), reach, 4.0 * words) for words in weights)
    assert step * 1.2e6 / 2048 == pytest.approx(44.49, rel=0.01)


# ---- as measured

TWO = Fit("intra", "gather", 2, 1e-5, (1e6,), (1e9, 2e9))


def test_a_fit_is_taken_as_it_was_measured_and_by_formula_over_other_ranks():
    machine = dataclasses.replace(MACHINE, fits=(TWO,))
    assert comm.seconds("gather", machine, over(2), 5e5) == pytest.approx(1e-5 + 5e-4)
    assert comm.seconds("gather", machine, over(2), 3e6) == pytest.approx(1e-5 + 1e-3 + 1e-3)
    # four ranks: two rounds instead of one, three quarters of the whole instead of a half
    assert comm.seconds("gather", machine, over(4), 3e6) == pytest.approx(2e-5 + 1.5 * 2e-3)
    assert comm.seconds("sum", machine, over(2), 1e6) == comm.seconds("sum", MACHINE, over(2), 1e6)


def test_crowded_ranks_take_longer_for_what_is_copied():
    fits = (TWO, dataclasses.replace(TWO, place="inter"), Fit("local", "slice", 1, 1e-5, (), (1e9,)))
    machine = dataclasses.replace(MACHINE, fits=fits)
    inside, across = Reach(2, 1, LINK, LINK, 3.0), Reach(1, 2, LINK, LINK, 3.0)
    assert comm.seconds("gather", machine, inside, 1e6) == pytest.approx(3 * (1e-5 + 1e-3))
    assert comm.seconds("gather", machine, across, 1e6) == pytest.approx(1e-5 + 1e-3)
    assert comm.seconds("slice", machine, across, 1e6) == pytest.approx(3 * (1e-5 + 1e-3))


def test_between_nodes_goes_what_the_ranks_of_a_node_share():
    fits = (Fit("intra", "sum", 2, 1e-5, (), (1e9,)), Fit("inter", "sum", 2, 1e-4, (), (1e8,)))
    machine = dataclasses.replace(MACHINE, fits=fits)
    reach = Reach(2, 2, Link(1.0, 1e3), Link(1.0, 1e3))
    assert comm.seconds("sum", machine, reach, 1e6) == pytest.approx(1e-5 + 1e-3 + 1e-4 + 5e5 / 1e8)


def test_a_gradient_pays_for_its_share_of_a_bucket():
    fit = Fit("intra", "gradient_sum", 2, 1e-3, (), (1e9,))
    machine = dataclasses.replace(MACHINE, fits=(fit,))
    bucket = 1e-3 + BUCKET_BYTES / 1e9
    assert comm.gradient_seconds(machine, over(2), BUCKET_BYTES / 8) == pytest.approx(bucket / 8)
    assert comm.gradient_seconds(machine, over(2), BUCKET_BYTES * 3) == pytest.approx(1e-3 + 3 * BUCKET_BYTES / 1e9)
    assert comm.gradient_seconds(MACHINE, over(2), 1e6) == pytest.approx(1e6 / LINK.beta)
    assert comm.gradient_seconds(machine, over(1), 1e6) == 0


def test_what_hides_behind_backward():
    inside, across = over(2), Reach(1, 2, LINK, LINK)
    machine = dataclasses.replace(MACHINE, overlap=0.25)
    assert comm.exposed(machine, inside) == comm.exposed(machine, across) == 0.75
    machine = dataclasses.replace(machine, overlap_inter=0.9)
    assert comm.exposed(machine, inside) == 0.75
    assert comm.exposed(machine, across) == pytest.approx(0.1)
