"""Decisions about boundaries, by simulated clocks and by trying everything."""

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.errors import ConfigError
from autopar.runtime.training.load_balance import (
    BalanceSettings,
    Movable,
    allot,
    decide,
    patience,
    position_times,
    propose,
)

SPEEDS = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(SPEEDS, st.integers(4, 12), st.data())
def test_allot_is_the_best_of_all(speeds, total, data):
    least = [data.draw(st.integers(0, total // len(speeds))) for _ in speeds]
    rows = allot(total, speeds, least)
    assert sum(rows) == total
    assert all(row >= low for row, low in zip(rows, least, strict=True))

    def longest(rows):
        return max(row / speed for row, speed in zip(rows, speeds, strict=True))

    every = (c for c in itertools.product(range(total + 1), repeat=len(speeds)) if sum(c) == total)
    best = min(longest(c) for c in every if all(row >= low for row, low in zip(c, least, strict=True)))
    assert longest(rows) <= best * (1 + 1e-12)


def bounds_of(rows):
    return (0, *itertools.accumulate(rows))


def simulated(sizes, rows, extent, slowness, fixed=0.0, steps=6, noise=lambda step, rank: 1.0, **options):
    """Follow decisions on one axis (the first) with clocks that follow from rows; returns rows after each decision."""
    history = [rows]
    options = BalanceSettings(**options)
    stride = math.prod(sizes[1:])
    window, step = options.window, 0
    for _ in range(steps):
        seconds = [
            [(fixed + history[-1][rank // stride]) * slow * noise(i, rank) for rank, slow in enumerate(slowness)]
            for i in range(step, step + window)
        ]
        step += window
        wall = statistics.median(map(max, seconds))
        move = decide(sizes, [Movable(0, (bounds_of(history[-1]),))], seconds, wall, wall, options)
        window = patience(window, move is not None, options)
        if move is None:
            history.append(history[-1])
            continue
        marks = [math.floor(cut * extent + 0.5) for cut in move.cuts]
        history.append([high - low for low, high in itertools.pairwise(marks)])
    return history


def test_a_rank_at_half_speed_gets_half_as_much_after_one_decision():
    history = simulated((2,), [30, 30], 60, [1.0, 2.0])
    assert history[1] == [40, 20]
    assert history[-1] == [40, 20]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1.0, 4.0), min_size=2, max_size=4), st.floats(0.0, 20.0))
def test_it_settles_near_the_best_whatever_the_fixed_work(slowness, fixed):
    extent = 200
    start = [extent // len(slowness)] * len(slowness)
    start[0] += extent - sum(start)

    def longest(rows):
        return max((fixed + row) * slow for row, slow in zip(rows, slowness, strict=True))

    history = simulated((len(slowness),), start, extent, slowness, fixed, steps=8, threshold=0.01)
    # the best lets all finish at one time T: sum_i (T / s_i - f) = n
    best = (extent + fixed * len(slowness)) / sum(1 / slow for slow in slowness)
    assert longest(history[-1]) <= 1.05 * max(best, max(slowness) * (fixed + 1))
    times = [longest(rows) for rows in history]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(times))


def test_balanced_ranks_with_noise_stay():
    def noise(step, rank):
        return 1 + 0.04 * ((step * 7 + rank * 3) % 5 - 2) / 2

    assert simulated((2,), [32, 32], 64, [1.0, 1.0], noise=noise, steps=30)[-1] == [32, 32]


@pytest.mark.parametrize("seed", range(10))
def test_spikes_do_not_move_a_boundary(seed):
    """One step in six takes three times as long, on one rank or the other."""
    draw = random.Random(seed)
    spikes = {(step, rank): draw.random() < 1 / 6 for step in range(2000) for rank in range(2)}
    history = simulated((2,), [32, 32], 64, [1.0, 1.0], noise=lambda *at: 3.0 if spikes[at] else 1.0, steps=60)
    assert sum(before != after for before, after in itertools.pairwise(history)) <= 2
    assert sum(rows != [32, 32] for rows in history) <= 2


def test_a_window_in_which_few_steps_agree_moves_nothing():
    axes = [Movable(0, ((0, 8, 16),))]
    even, slow = [1.0, 1.0], [1.0, 2.0]
    assert decide((2,), axes, [slow, slow, slow, slow, even], 2.0, 0.0, BalanceSettings()) is not None
    assert decide((2,), axes, [slow, slow, even, slow, even], 2.0, 0.0, BalanceSettings()) is None  # the median is slow
    assert decide((2,), axes, [slow, slow, even, slow, even], 2.0, 0.0, BalanceSettings(agreement=0.5)) is not None


def test_patience_grows_with_moves_and_falls_without():
    options = BalanceSettings(window=4, longest=10)
    windows = list(
        itertools.accumulate([True, True, False, False, False], lambda w, m: patience(w, m, options), initial=4)
    )
    assert windows == [4, 8, 10, 5, 4, 4]


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 5.0), st.floats(0.05, 5.0), st.integers(2, 16))
def test_a_position_keeps_its_least_share(first, second, channels):
    movable = Movable(0, ((0, 50, 100),), share=1 / channels)
    move = propose((2,), movable, [first, second])
    if move is not None:
        bounds = [math.floor(cut * channels + 0.5) for cut in move.cuts]
        assert all(low < high for low, high in itertools.pairwise(bounds))


def test_a_shard_keeps_its_last_row():
    assert simulated((3,), [1, 1, 2], 4, [1.0, 100.0, 1.0])[-1][1] == 1
    assert simulated((3,), [1, 1, 0], 2, [1.0, 9.0, 1.0])[-1] == [1, 1, 0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(3, 40), min_size=1, max_size=3), st.lists(st.floats(0.05, 5.0), min_size=3, max_size=3))
def test_no_extent_loses_a_row_where_it_had_one(extents, seconds):
    def bounds(extent, cuts):
        return tuple(math.floor(cut * extent + 0.5) for cut in cuts)

    before = tuple(bounds(extent, (0, 1 / 3, 2 / 3, 1)) for extent in extents)
    move = propose((3,), Movable(0, before), seconds)
    for extent, old in zip(extents, before, strict=True) if move else ():
        new = bounds(extent, move.cuts)
        assert all(b > a for a, b in itertools.pairwise(new)) or any(b == a for a, b in itertools.pairwise(old))


def test_the_slowest_rank_of_a_position_counts():
    assert position_times((2, 3), 0, [1, 5, 2, 3, 3, 4]) == [5, 4]
    history = simulated((2, 2), [8, 8], 16, [1.0, 1.0, 1.0, 3.0])
    assert history[-1] == [12, 4]


def test_the_axis_that_saves_most_is_moved():
    axes = [Movable(0, ((0, 8, 16),)), Movable(1, ((0, 50, 100),))]
    assert decide((2, 2), axes, [[1.0, 3.0, 1.0, 3.0]], 3.0, 0.0, BalanceSettings()).axis == 1
    assert decide((2, 2), axes, [[1.0, 1.0, 3.0, 3.0]], 3.0, 0.0, BalanceSettings()).axis == 0
    assert decide((2, 2), [], [[1.0, 1.0, 3.0, 3.0]], 3.0, 0.0, BalanceSettings()) is None


def test_a_move_that_costs_more_than_it_saves_is_not_made():
    axes = [Movable(0, ((0, 8, 16),))]
    assert decide((2,), axes, [[1.0, 2.0]], 2.0, 1.0, BalanceSettings(horizon=10)) is not None
    assert decide((2,), axes, [[1.0, 2.0]], 2.0, 9.0, BalanceSettings(horizon=10)) is None
    assert decide((2,), axes, [[1.0, 2.0]], 100.0, 1.0, BalanceSettings()) is None


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="window and horizon"):
        BalanceSettings(window=0)
    with pytest.raises(ConfigError, match="longest at least window"):
        BalanceSettings(window=9, longest=8)
