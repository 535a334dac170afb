"""Collectives by algorithm: each is played on lists and counted, prices grow, and no detour is cheaper than the way."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.costmodel import collectives as al
from autopar.costmodel.collectives import Reach
from autopar.ir.grid import GridShape
from autopar.ir.machine import Link, load

ONE = Link(1000.0, 1.0)  # a message counts a thousand, a byte counts one
COLLECTIVES = ("gather", "scatter", "sum", "all_to_all")
BYTES = st.floats(0, 1e9)
INTER = st.builds(Link, st.floats(1e-7, 1e-3), st.floats(1e6, 1e11))
SCALE = st.floats(0.01, 1.0)
REACHES = st.builds(
    lambda inside, across, inter, alpha, beta: Reach(
        inside, across, Link(inter.alpha * alpha, inter.beta / beta), inter
    ),
    *(st.integers(1, 40), st.integers(1, 40), INTER, SCALE, SCALE),
)


class Ranks:
    """Ranks that exchange lists of words in rounds; counts rounds, and words of the busiest rank."""

    def __init__(self, ranks):
        self.ranks, self.rounds, self.words = ranks, 0, 0

    def exchange(self, sends):
        """`sends[rank]` is (to whom, a list); what each rank gets."""
        self.rounds += 1
        self.words += max(len(words) for _, words in sends)
        assert sorted(to for to, _ in sends) == list(range(self.ranks)), "one message to every rank"
        got = {to: words for to, words in sends}
        return [got[rank] for rank in range(self.ranks)]

    @property
    def seconds(self):
        return self.rounds * ONE.alpha + self.words


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8, 12])
def test_a_ring_gathers(ranks):
    world, size = Ranks(ranks), 4
    held = [[[rank] * size] for rank in range(ranks)]
    for _ in range(ranks - 1):
        got = world.exchange([((rank + 1) % ranks, own[-1]) for rank, own in enumerate(held)])
        held = [[*own, words] for own, words in zip(held, got, strict=True)]
    assert all(sorted(words[0] for words in own) == list(range(ranks)) for own in held)
    assert al.ring(ONE, ranks, float(ranks * size)) == pytest.approx(world.seconds)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8, 12])
def test_a_ring_scatters_sums(ranks):
    world, size = Ranks(ranks), 3
    parts = [[np.full(size, rank * 100 + part) for part in range(ranks)] for rank in range(ranks)]
    for step in range(ranks - 1):
        sends = [((rank + 1) % ranks, list(own[(rank - step - 1) % ranks])) for rank, own in enumerate(parts)]
        for rank, words in enumerate(world.exchange(sends)):
            parts[rank][(rank - step - 2) % ranks] = parts[rank][(rank - step - 2) % ranks] + np.array(words)
    whole = [sum(rank * 100 + part for rank in range(ranks)) for part in range(ranks)]
    assert all(parts[rank][rank][0] == whole[rank] for rank in range(ranks))
    assert al.ring(ONE, ranks, float(ranks * size)) == pytest.approx(world.seconds)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 16])
def test_recursive_doubling_sums(ranks):
    world, size = Ranks(ranks), 5
    values = [[2**rank] * size for rank in range(ranks)]
    for bit in range(al.rounds(ranks)):
        got = world.exchange([(rank ^ 1 << bit, own) for rank, own in enumerate(values)])
        values = [[a + b for a, b in zip(own, words, strict=True)] for own, words in zip(values, got, strict=True)]
    assert all(own == [2**ranks - 1] * size for own in values)
    assert al.doubling(ONE, ranks, float(size)) == pytest.approx(world.seconds)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 16])
def test_recursive_halving_scatters_sums(ranks):
    world = Ranks(ranks)
    held = [{part: 2**rank for part in range(ranks)} for rank in range(ranks)]
    for bit in reversed(range(al.rounds(ranks))):
        away = [sorted(part for part in own if (part ^ rank) >> bit & 1) for rank, own in enumerate(held)]
        sends = [(rank ^ 1 << bit, [held[rank].pop(part) for part in away[rank]]) for rank in range(ranks)]
        for rank, words in enumerate(world.exchange(sends)):
            for part, word in zip(sorted(held[rank]), words, strict=True):
                held[rank][part] += word
    assert held == [{rank: 2**ranks - 1} for rank in range(ranks)]
    assert al.bruck_gather(ONE, ranks, float(ranks)) == pytest.approx(world.seconds)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8, 12])
def test_pairs_exchange_all(ranks):
    world = Ranks(ranks)
    got = [{rank: (rank, rank)} for rank in range(ranks)]
    for step in range(1, ranks):
        received = world.exchange([((rank + step) % ranks, [(rank, (rank + step) % ranks)]) for rank in range(ranks)])
        for rank, ((source, target),) in enumerate(received):
            assert target == rank
            got[rank][source] = (source, target)
    assert all(set(own) == set(range(ranks)) for own in got)
    assert al.pairwise(ONE, ranks, float(ranks)) == pytest.approx(world.seconds)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 8, 12, 16])
def test_bruck_exchanges_all_in_few_rounds(ranks):
    """A block that has to go d ranks further goes 2^i in every round i whose bit d has."""
    world = Ranks(ranks)
    held = [{(d, rank) for d in range(ranks)} for rank in range(ranks)]  # (distance in all, source)
    for bit in range(al.rounds(ranks)):
        away = [sorted(block for block in own if block[0] >> bit & 1) for own in held]
        got = world.exchange([((rank + (1 << bit)) % ranks, away[rank]) for rank in range(ranks)])
        held = [own - set(gone) | set(words) for own, gone, words in zip(held, away, got, strict=True)]
    assert all(own == {((rank - source) % ranks, source) for source in range(ranks)} for rank, own in enumerate(held))
    price = al.bruck_all_to_all(ONE, ranks, float(ranks))
    assert price == pytest.approx(world.seconds) if ranks & (ranks - 1) == 0 else price >= world.seconds


def test_two_levels_cross_the_slow_link_once_per_byte_and_node():
    """Four nodes of eight: without latency, a node's ranks share what crosses."""
    reach = Reach(8, 4, Link(0.0, 1e30), Link(0.0, 1.0))
    assert al.two_level("gather", reach, 3200.0) == pytest.approx(3 / 4 * 3200 / 8)
    assert al.two_level("sum", reach, 3200.0) == pytest.approx(2 * 3 / 4 * 3200 / 8)
    assert al.two_level("all_to_all", reach, 3200.0) == pytest.approx(3 / 4 * 3200)
    assert al.seconds("sum", reach, 3200.0) < al.flat("sum", reach.inter, 32, 3200.0)


@given(st.sampled_from(COLLECTIVES), REACHES, BYTES, BYTES, st.integers(0, 40), st.integers(0, 40))
def test_prices_grow_with_bytes_ranks_and_slowness(collective, reach, nbytes, more, inside, across):
    price = al.seconds(collective, reach, nbytes)
    rounding = 1 + 1e-12
    assert 0 <= price <= al.seconds(collective, reach, nbytes + more) * rounding
    further = dataclasses.replace(reach, across=reach.across + across)
    assert price <= al.seconds(collective, further, nbytes) * rounding
    slower = dataclasses.replace(reach, inter=Link(reach.inter.alpha * 2, reach.inter.beta / 2))
    assert price <= al.seconds(collective, slower, nbytes) * rounding
    alone = dataclasses.replace(reach, across=1)
    fuller = dataclasses.replace(alone, inside=reach.inside + inside)
    assert al.seconds(collective, alone, nbytes) <= al.seconds(collective, fuller, nbytes) * rounding
    assert al.seconds(collective, Reach(1, 1, reach.intra, reach.inter), nbytes) == 0


@given(REACHES, BYTES)
def test_no_detour_is_cheaper(reach, nbytes):
    """The conversions between layouts by their wires alone; n is the whole tensor, a part is n / p."""
    gather, scatter, total = (al.seconds(one, reach, nbytes) for one in ("gather", "scatter", "sum"))
    exchange = al.seconds("all_to_all", reach, nbytes / reach.ranks)
    ways = {
        ("shard", "replicate"): gather,
        ("shard", "other shard"): exchange,
        ("other shard", "shard"): exchange,
        ("other shard", "replicate"): gather,
        ("partial", "shard"): scatter,
        ("partial", "other shard"): scatter,
        ("partial", "replicate"): total,
    }
    free = [("replicate", "shard"), ("replicate", "other shard"), ("replicate", "partial")]
    ways |= dict.fromkeys([*free, ("shard", "partial"), ("other shard", "partial")], 0.0)
    for (a, b), first in ways.items():
        for (c, d), second in ways.items():
            if b == c and a != d:
                assert ways[a, d] <= (first + second) * (1 + 1e-9), (a, b, d)


FLAT = {
    "gather": {"ring": al.ring, "bruck": al.bruck_gather},
    "scatter": {"ring": al.ring, "bruck": al.bruck_gather},
    "sum": {"doubling": al.doubling},
    "all_to_all": {"pairwise": al.pairwise, "bruck": al.bruck_all_to_all},
}


def by_algorithm(collective, reach, nbytes):
    """Seconds of every algorithm by name."""
    link = reach.intra if reach.across == 1 else reach.inter
    named = {name: formula(link, reach.ranks, nbytes) for name, formula in FLAT[collective].items()}
    if collective == "sum":
        named["ring"] = 2 * al.ring(link, reach.ranks, nbytes)
        named["rabenseifner"] = 2 * al.bruck_gather(link, reach.ranks, nbytes)
    if reach.inside > 1 and reach.across > 1:
        named["two_level"] = al.two_level(collective, reach, nbytes)
    return named


@given(st.sampled_from(COLLECTIVES), REACHES, BYTES)
def test_the_price_is_that_of_the_cheapest_algorithm_or_less(collective, reach, nbytes):
    """Less only where a sum scatters on two levels and gathers flat, or the other way round."""
    named = by_algorithm(collective, reach, nbytes)
    assert al.seconds(collective, reach, nbytes) <= min(named.values()) * (1 + 1e-12)
    if reach.across == 1 or collective != "sum":
        assert al.seconds(collective, reach, nbytes) == pytest.approx(min(named.values()), rel=1e-9)


@given(st.sampled_from(COLLECTIVES), REACHES, st.lists(BYTES, min_size=1, max_size=5))
def test_many_sizes_at_once(collective, reach, sizes):
    many = al.seconds(collective, reach, np.array(sizes))
    assert many == pytest.approx([al.seconds(collective, reach, one) for one in sizes])


@pytest.mark.parametrize(
    ("grid", "per_node", "expected"),
    [
        ("8", 4, [(4, 2)]),
        ("2x4", 4, [(1, 2), (4, 1)]),
        ("4x2", 4, [(2, 2), (2, 1)]),
        ("2x2x2", 4, [(1, 2), (2, 1), (2, 1)]),
        ("6", 4, [(1, 6)]),  # four and two
        ("3x2", 3, [(1, 3), (1, 2)]),  # a node's border goes through a group
        ("4x2", 64, [(4, 1), (2, 1)]),
        ("1x4", 1, [(1, 1), (1, 4)]),
    ],
)
def test_reaches(grid, per_node, expected):
    machine = dataclasses.replace(load("cpu"), ranks_per_node=per_node)
    found = al.reaches(machine, GridShape.parse(grid))
    assert [(one.inside, one.across) for one in found] == expected
    assert all((one.intra, one.inter) == (machine.intra, machine.inter) for one in found)


@pytest.mark.parametrize(
    ("axes", "expected"), [((0,), (2, 2)), ((1,), (2, 1)), ((0, 1), (4, 2)), ((1, 2), (2, 3)), ((0, 1, 2), (1, 24))]
)
def test_the_reach_of_several_axes(axes, expected):
    grid = {(1, 2): "4x2x3", (0, 1, 2): "4x2x3"}.get(axes, "4x2")
    machine = dataclasses.replace(load("cpu"), ranks_per_node={"4x2": 4, "4x2x3": 2 if axes == (1, 2) else 5}[grid])
    found = al.reach_of(machine, GridShape.parse(grid), axes)
    assert (found.inside, found.across) == expected


def test_ranks_that_share_cores_slow_what_is_copied():
    machine = dataclasses.replace(load("cpu"), cores_per_node=2, ranks_per_node=8)
    alone, crowded, full = (al.reaches(machine, GridShape.parse(grid))[0] for grid in ("2", "4", "16"))
    assert (alone.crowding, crowded.crowding, full.crowding) == (1.0, 2.0, 4.0)
    assert alone.intra == machine.intra
    assert crowded.intra == Link(machine.intra.alpha * 2, machine.intra.beta / 2)
    assert full.inter == machine.inter
