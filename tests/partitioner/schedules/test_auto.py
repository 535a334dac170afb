import random
from dataclasses import replace

import pytest
from every_schedule import best_makespan
from random_pipelines import equal_pipeline, random_pipeline

from autopar.errors import ConfigError, InfeasiblePlan
from autopar.ir.pipeline.schedule import format_schedule
from autopar.ir.pipeline.schedule_check import SegmentGraph, ValueEdge, check_schedule
from autopar.partitioner.schedules.auto import auto, renumbered
from autopar.partitioner.schedules.lower_bound import lower_bound
from autopar.partitioner.schedules.named import NAMED
from autopar.partitioner.schedules.simulate import simulate


def proved(problem, lists):
    """The timeline of lists that are shown to be right, and to keep within memory."""
    edges = tuple(ValueEdge("x", edge.source, edge.target, edge.gradient) for edge in problem.edges)
    check_schedule(SegmentGraph(problem.positions, problem.microbatches, problem.position, edges), lists)
    timeline = simulate(problem, lists)
    for position, peak in enumerate(timeline.peak):
        assert peak <= problem.most(position) * (1 + 1e-9)
    return timeline


def named(problem):
    """The timelines of those named schedules that are defined and fit."""
    for schedule in NAMED.values():
        try:
            timeline = proved(replace(problem, limit=None), schedule(problem))
        except ConfigError:
            continue
        if all(peak <= problem.most(position) for position, peak in enumerate(timeline.peak)):
            yield timeline


def test_never_slower_than_a_named_schedule_nor_below_the_bound():
    rng = random.Random(0)
    compared = faster = 0
    for number in range(100):
        problem = random_pipeline(rng, rng.randint(2, 6), rng.randint(1, 12), limited=number % 2 == 0)
        found = proved(problem, auto(problem, tries=100)).makespan
        assert found >= lower_bound(problem) * (1 - 1e-9)
        for other in named(problem):
            assert found <= other.makespan * (1 + 1e-9)
            compared += 1
            faster += found < other.makespan * 0.99
    assert compared > 80
    assert faster > 50


@pytest.mark.parametrize("name", NAMED)
def test_as_fast_as_each_named_schedule_with_no_more_memory(name):
    for positions, count in ((2, 3), (3, 8), (4, 2), (4, 12)):
        problem = equal_pipeline(positions, count, rounds=2 if name == "interleaved" else 1)
        timeline = simulate(problem, NAMED[name](problem))
        tight = replace(problem, limit=(max(timeline.peak),) * positions)
        assert proved(tight, auto(tight)).makespan <= timeline.makespan * (1 + 1e-9)


def test_a_v_of_segments_needs_half_the_memory():
    """Two segments a position, laid out there and back: with half of 1F1B's memory less of its bubble (arXiv 2405.15362)."""
    for positions in (4, 8):
        ring = equal_pipeline(positions, 2 * positions, rounds=2, forward=2.0, backward=4.0, weight=2.0)
        shape = replace(ring, position=(*range(positions), *reversed(range(positions))))
        for memory, bubble in ((positions, positions - 1), (positions / 2, 4 * (positions - 1))):
            tight = replace(shape, limit=(memory,) * positions)
            assert proved(tight, auto(tight)).makespan <= 6 * ring.microbatches + bubble


def test_of_equal_schedules_the_one_that_keeps_least():
    problem = equal_pipeline(4, 12, weight=0.0)
    assert format_schedule(auto(problem)) == format_schedule(NAMED["1f1b"](problem))


def test_nothing_is_deferred_where_that_gains_nothing():
    assert "W" not in format_schedule(auto(equal_pipeline(1, 4)))
    chain = format_schedule(auto(equal_pipeline(4, 8)))
    assert "W3.0" in chain
    assert "W0." not in chain  # nobody waits for the first segment's input gradients


def test_against_every_order_of_tiny_pipelines():
    rng = random.Random(3)
    ratios = []
    for number in range(50):
        segments, count = (2, 2) if number % 2 else (3, 1)
        problem = random_pipeline(rng, 2, count, segments=segments, limited=number % 3 == 0)
        optimum = best_makespan(problem)
        assert lower_bound(problem) <= optimum * (1 + 1e-9)
        ratios.append(proved(problem, auto(problem)).makespan / optimum)
    assert min(ratios) > 1 - 1e-9
    assert max(ratios) < 1.02
    assert sum(ratio > 1 + 1e-9 for ratio in ratios) <= 1


@pytest.mark.parametrize("seed", range(6))
def test_two_segments_on_a_position_against_every_order(seed):
    """Skips, two micro-batches and deferred weight gradients of one segment: the largest pipelines that can be searched."""
    rng = random.Random(seed)
    problem = random_pipeline(rng, 2, 2, segments=3, limited=seed % 2 == 0)
    problem = replace(problem, position=(0, 1, 0), weight=(problem.backward[0] / 2, 0.0, 0.0))
    problem = replace(problem, limit=None if problem.limit is None else (problem.kept[0] * 1.5 + problem.kept[2], 9.0))
    optimum = best_makespan(problem)
    assert lower_bound(problem) <= optimum * (1 + 1e-9)
    assert proved(problem, auto(problem)).makespan <= optimum * 1.02


@pytest.mark.parametrize("seed", range(3))
def test_a_ring_with_little_memory_against_every_order(seed):
    rng = random.Random(seed)
    ring = equal_pipeline(2, 3, rounds=2, weight=0.0, limit=1.5)
    edges = tuple(replace(edge, forward=rng.random(), backward=rng.random()) for edge in ring.edges)
    forward, backward = ([rng.uniform(0.6, 1.4) * factor for _ in range(4)] for factor in (1, 2))
    problem = replace(ring, forward=tuple(forward), backward=tuple(backward), edges=edges)
    optimum = best_makespan(problem)
    assert lower_bound(problem) <= optimum * (1 + 1e-9)
    assert proved(problem, auto(problem)).makespan <= optimum * 1.04


def test_how_positions_are_numbered_makes_no_difference():
    rng = random.Random(6)
    for _ in range(10):
        problem = random_pipeline(rng, 4, 3, limited=True)
        order = rng.sample(range(4), 4)
        lists = auto(renumbered(problem, order))
        assert tuple(lists[order.index(position)] for position in range(4)) == auto(problem)


def test_no_room_for_one_micro_batch_is_refused_by_position():
    problem = equal_pipeline(3, 4, rounds=2, limit=0.9)
    assert lower_bound(problem) == float("inf")
    with pytest.raises(InfeasiblePlan, match=r"position 2: 1 bytes, the limit is 0\.9"):
        auto(problem)


def test_room_for_one_micro_batch_is_enough():
    rng = random.Random(4)
    for _ in range(30):
        problem = random_pipeline(rng, rng.randint(1, 4), rng.randint(1, 6))
        one = [0.0] * problem.positions
        for position, size in zip(problem.position, problem.kept, strict=True):
            one[position] += size
        proved(tight := replace(problem, limit=tuple(one)), auto(tight))


def test_no_time_at_all_is_no_hindrance():
    """Actions and messages of zero seconds, as those of frozen segments."""
    rng = random.Random(5)
    for _ in range(30):
        problem = random_pipeline(rng, 3, 3)
        zeros = tuple(rng.choice((0.0, 1.0)) for _ in problem.position)
        proved(quick := replace(problem, forward=zeros, backward=zeros, weight=zeros), auto(quick))
