"""Cuts of all axes together, beside those that are found by trying all."""

import dataclasses
import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.partitioner.cuts.best_cuts import CutTask, best_cuts, rounded_cuts, seconds
from autopar.partitioner.cuts.rank_work import RankWork, StepWork, least_seconds, loads, parts_of

GRIDS = [(2,), (3,), (4,), (2, 2), (3, 2), (2, 3)]


def drawn(draw, sizes):
    """Works over every set of axes, and ranks of which some are slow."""
    extents = [draw.choice([4, 6, 8]) for _ in sizes]
    works = [RankWork((), (draw.random(),))]
    for axes in (some for n in range(len(sizes)) for some in itertools.combinations(range(len(sizes)), n + 1)):
        works.append(RankWork(tuple(((a,), extents[a]) for a in axes), (draw.choice([0, 1, 5]) * draw.random(),)))
    speeds = tuple(draw.choice([1.0, 1.0, 0.5, draw.uniform(0.3, 1.0)]) for _ in range(math.prod(sizes)))
    step = StepWork(sizes, tuple(works))
    return CutTask(step, (1.0,) * len(works), speeds, tuple((n,) for n in extents), lambda cuts: True)


def at_rows(extent, size):
    """All cuts at rows of which nobody gets none."""
    return [
        tuple(row / extent for row in (0, *rows, extent)) for rows in itertools.combinations(range(1, extent), size - 1)
    ]


def tried(task):
    """The shortest longest time of all cuts at rows."""
    every = itertools.product(*(at_rows(n, size) for (n,), size in zip(task.extents, task.step.sizes, strict=True)))
    return min(max(seconds(task, cuts)) for cuts in every)


def test_few_are_slower_than_the_best_of_all():
    """Of one axis none; of two a local optimum may be, by little."""
    draw = random.Random(1)
    found = []
    for _ in range(40):
        task = drawn(draw, draw.choice(GRIDS))
        cuts = best_cuts(task, (None,) * len(task.step.sizes))
        ratio = max(seconds(task, cuts)) / tried(task)
        assert ratio <= (1 + 1e-9 if len(task.step.sizes) == 1 else 1.15)
        found.append(ratio)
    assert sum(ratio > 1 + 1e-9 for ratio in found) <= 4


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(GRIDS), st.integers(0, 10**6))
def test_works_of_all_ranks_add_up_whatever_the_cuts(sizes, seed):
    """So that there is a time that nothing falls below; factors that several axes cut nest."""
    draw = random.Random(seed)
    task = drawn(draw, sizes)
    nested = RankWork(((tuple(range(len(sizes))), 7),), (1.0,))
    step = StepWork(sizes, (*task.step.works, nested))
    one = (1.0,) * len(step.works)
    cuts = tuple((0.0, *sorted(draw.random() for _ in range(size - 1)), 1.0) for size in sizes)
    even, moved = loads(step, one, (None,) * len(sizes)), loads(step, one, cuts)
    assert sum(moved) == pytest.approx(sum(even))
    times = [load / speed for load, speed in zip(moved, task.speeds, strict=True)]
    assert max(times) >= least_seconds(step, even, task.speeds) * (1 - 1e-9)


def test_a_rank_of_half_the_speed_gets_half_as_much():
    step = StepWork((2,), (RankWork((((0,), 12),), (1.0,)),))
    cuts = best_cuts(CutTask(step, (1.0,), (1.0, 0.5), ((12,),), lambda cuts: True), (None,))
    assert parts_of(12, 2, cuts[0]) == (8, 4)


def test_a_slow_rank_of_two_by_two_starves_its_row_no_more_than_it_has_to():
    step = StepWork((2, 2), (RankWork((((0,), 60), ((1,), 60)), (1.0,)),))
    task = CutTask(step, (1.0,), (1.0, 1.0, 1.0, 0.5), ((60,), (60,)), lambda cuts: True)
    cuts = best_cuts(task, (None, None))
    assert max(seconds(task, cuts)) == pytest.approx(tried(task))
    assert max(seconds(task, cuts)) == pytest.approx(1 / 3)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(GRIDS), st.integers(0, 10**6))
def test_nobody_loses_its_last_row_and_only_what_is_legal_is_taken(sizes, seed):
    draw = random.Random(seed)
    task = drawn(draw, sizes)
    extents = tuple((*some, 50) for some in task.extents)
    legal = lambda cuts: all(min(parts_of(50, size, at)) >= 9 for size, at in zip(sizes, cuts, strict=True))  # noqa: E731
    cuts = best_cuts(CutTask(task.step, task.corrections, task.speeds, extents, legal), (None,) * len(sizes))
    assert legal(cuts)
    assert all(min(parts_of(n, size, at)) for some, size, at in zip(extents, sizes, cuts, strict=True) for n in some)


def test_positions_of_a_place_axis_share_their_cuts():
    step = StepWork((2,), (RankWork((((0,), 12),), (1.0, 2.0)),), positions=2)
    task = CutTask(step, (1.0,), (1.0, 1.0, 1.0, 0.5), ((12,),), lambda cuts: True)
    assert parts_of(12, 2, best_cuts(task, (None,))[0]) == (8, 4)


def test_rounder_cuts_are_taken_where_they_are_as_good():
    """Of 16, 32 and 64 rows 11/16 cuts all alike; 3/4 would take too long, and what the program refuses is left."""
    works = tuple(RankWork((((0,), extent),), (seconds,)) for extent, seconds in ((16, 0.1), (32, 0.3), (64, 0.6)))
    task = CutTask(StepWork((2,), works), (1.0,) * 3, (1.0, 0.47), ((16, 32, 64),), lambda cuts: True)
    assert rounded_cuts(task, ((0.0, 0.679, 1.0),)) == ((0.0, 0.6875, 1.0),)
    stuck = dataclasses.replace(task, legal=lambda cuts: False)
    assert rounded_cuts(stuck, ((0.0, 0.679, 1.0),)) == ((0.0, 0.679, 1.0),)
    assert rounded_cuts(task, (None,)) == (None,)
