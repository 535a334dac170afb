"""Equations 3 to 9: their limits, where they grow, numbers the paper gives, and the algorithm that equation 3 counts."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.ir.machine import Link
from benchmarks.gholami2018 import equations as eq
from benchmarks.gholami2018.equations import Layer

SIZES = st.integers(1, 40)
LAYERS = st.lists(
    st.tuples(
        st.tuples(st.integers(1, 7), st.integers(1, 7)), st.tuples(SIZES, SIZES, SIZES), st.tuples(SIZES, SIZES, SIZES)
    ).map(lambda sizes: Layer("layer", *sizes)),
    min_size=1,
    max_size=4,
)
LINKS = st.tuples(st.floats(0, 1e-3), st.floats(1e6, 1e12)).map(lambda numbers: Link(*numbers))
RANKS = st.integers(1, 600)
BATCH = st.integers(1, 4096)


def near(value):
    return pytest.approx(value, rel=1e-9, abs=1e-15)


@given(LAYERS, LINKS, BATCH, RANKS)
def test_one_row_is_pure_batch_and_one_column_is_pure_model(layers, link, batch, ranks):
    assert eq.integrated(layers, link, batch, 1, ranks) == near(eq.batch(layers, link, ranks))
    assert eq.integrated(layers, link, batch, ranks, 1) == near(eq.model(layers, link, batch, ranks))


@given(LAYERS, LAYERS, LINKS, BATCH, RANKS, RANKS)
def test_without_domain_layers_equation_9_is_equation_8_and_without_model_layers_the_domain(
    some, others, link, batch, rows, columns
):
    assert eq.full(some, [], link, batch, rows, columns) == near(eq.integrated(some, link, batch, rows, columns))
    assert eq.full([], some, link, batch, rows, columns) == near(eq.domain(some, link, batch, rows, columns))
    both = eq.full(some, others, link, batch, rows, columns)
    assert both == near(eq.full(some, [], link, batch, rows, columns) + eq.full([], others, link, batch, rows, columns))


@given(LAYERS, LINKS, BATCH, RANKS, RANKS)
def test_a_kernel_of_one_has_no_halo_and_one_part_neither(layers, link, batch, rows, columns):
    points = [dataclasses.replace(layer, kernel=(1, 1)) for layer in layers]
    assert eq.domain(points, link, batch, rows, columns) == near(eq.batch(points, link, rows * columns))
    assert eq.domain(layers, link, batch, 1, columns) == near(eq.batch(layers, link, columns))


@given(LAYERS, LINKS, BATCH)
def test_one_rank_sends_nothing(layers, link, batch):
    assert eq.full(layers, layers, link, batch, 1, 1) == 0


@given(LAYERS, LAYERS, LINKS, BATCH, RANKS, RANKS, st.floats(1, 10))
def test_more_images_and_a_slower_link_never_cost_less(some, others, link, batch, rows, columns, times):
    whole = eq.full(some, others, link, batch, rows, columns)
    assert eq.full(some, others, link, batch + 1, rows, columns) >= whole
    assert eq.full(some, others, Link(link.alpha * times, link.beta), batch, rows, columns) >= whole
    assert eq.full(some, others, Link(link.alpha, link.beta / times), batch, rows, columns) >= whole
    assert eq.full(some, [*others, *some], link, batch, rows, columns) >= whole


@given(LAYERS, LINKS, BATCH, RANKS)
def test_more_ranks_never_cost_less_where_they_share_nothing_more(layers, link, batch, ranks):
    for cost in (
        lambda p: eq.model(layers, link, batch, p),
        lambda p: eq.batch(layers, link, p),
        lambda p: eq.domain(layers, link, batch, p),
        lambda p: eq.redistribution(layers[0], link, batch, p),
    ):
        assert cost(ranks + 1) >= cost(ranks) * (1 - 1e-12)


@given(LAYERS, st.floats(1e6, 1e12), BATCH, RANKS, RANKS)
def test_on_a_link_without_latency_more_rows_sum_less_and_more_columns_gather_less(layers, beta, batch, rows, columns):
    link = Link(0.0, beta)
    sums = [eq.batch(layers, link, columns, parts=parts) for parts in (rows, rows + 1)]
    gathers = [eq.model(layers, link, batch / one, rows) for one in (columns, columns + 1)]
    assert sums[1] <= sums[0]
    assert gathers[1] <= gathers[0]


@given(LAYERS, st.floats(1e6, 1e12), BATCH, st.integers(2, 600))
def test_equation_5_is_the_ratio_of_4_and_3(layers, beta, batch, ranks):
    layer, link = layers[0], Link(0.0, beta)
    ratio = eq.batch([layer], link, ranks) / eq.model([layer], link, batch, ranks)
    assert eq.volume_ratio(layer, batch) == near(ratio)
    assert eq.volume_ratio(layer, eq.break_even(layer)) == near(1)


def test_model_parallelism_pays_up_to_a_batch_of_13():
    """The paper's example, 3 x 3 on 13 x 13 x 384; its text says 12, its formula 13.6."""
    layer = Layer("conv4", (3, 3), (384, 13, 13), (384, 13, 13))
    assert eq.break_even(layer) == pytest.approx(13.63, abs=0.01)


def test_sizes_of_a_layer():
    conv2 = Layer("conv2", (5, 5), (96, 27, 27), (256, 27, 27), groups=2)
    assert (conv2.weights, conv2.size) == (307_200, 186_624)
    assert (conv2.halo_forward, conv2.halo_backward) == (2 * 27 * 96, 2 * 27 * 256)
    fc6 = Layer("fc6", (6, 6), (256, 6, 6), (4096, 1, 1))
    assert (fc6.weights, fc6.size) == (37_748_736, 4096)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 7, 8, 12, 31, 64])
def test_a_gather_by_bruck_takes_so_many_messages_and_words(ranks):
    """Bruck's algorithm, played: in round k rank r gets from r + 2^k what that rank has, but no more than is missing."""
    held, rounds, received = [[rank] for rank in range(ranks)], 0, 0
    while len(held[0]) < ranks:
        step = len(held[0])
        count = min(step, ranks - step)
        held = [own + held[(rank + step) % ranks][:count] for rank, own in enumerate(held)]
        rounds, received = rounds + 1, received + count
    assert all(sorted(own) == list(range(ranks)) for own in held)
    assert eq.messages(ranks) == rounds == math.ceil(math.log2(ranks))
    assert eq.collective(Link(1.0, 4.0), ranks, words=float(ranks)) == near(rounds + received)
