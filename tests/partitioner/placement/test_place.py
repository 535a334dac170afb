"""The heuristics beside the oracle, and what a placement says of itself."""

import random
from dataclasses import replace
from statistics import mean

import pytest

from autopar.errors import ConfigError, InfeasiblePlan
from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
from autopar.partitioner.placement.assignment import assign, is_legal
from autopar.partitioner.placement.bounds import placement_bound
from autopar.partitioner.placement.exhaustive import exhaustive
from autopar.partitioner.placement.judging import Judge
from autopar.partitioner.placement.place import compare, place
from autopar.partitioner.placement.problem import CallWork, ParameterUse, PlacementProblem, TensorUse
from autopar.partitioner.schedules.simulate import simulate
from benchmarks.placement.random_problems import random_problem


def test_near_the_optimum_and_never_below_the_bound():
    gaps = []
    for seed in range(14):
        problem, most = random_problem(random.Random(seed))
        optimum = exhaustive(problem, most, Judge(problem, "auto"))
        assert optimum.proven
        if optimum.assignment is None:
            with pytest.raises(InfeasiblePlan):
                place(problem, segments_per_position=most)
            continue
        placement = place(problem, segments_per_position=most, tries=0)
        assert is_legal(problem, placement.assignment, most)
        assert placement.bound <= optimum.makespan * (1 + 1e-9)
        assert placement.makespan >= optimum.makespan * (1 - 1e-9)
        gaps.append(placement.makespan / optimum.makespan - 1)
    assert len(gaps) > 10
    assert mean(gaps) <= 0.05
    assert max(gaps) <= 0.3


def test_small_problems_are_placed_optimally():
    for seed in range(6):
        problem, most = random_problem(random.Random(seed), 9)
        placement = place(problem, segments_per_position=most, tries=5000)
        optimum = exhaustive(problem, most, Judge(problem, "auto"))
        assert placement.gap < 1e-9
        assert placement.makespan == pytest.approx(optimum.makespan)


def chain(count, positions, microbatches, **others):
    """Equal calls one after the other; messages cost a hundredth of one."""
    others = {"parameters": ()} | others
    return PlacementProblem(
        tuple(CallWork(f"c{k}", 1.0, 2.0, 1.0, saved=1.0, held=0.5) for k in range(count)),
        tuple(TensorUse(f"t{k}", k, (k + 1,), 1.0, 1.0) for k in range(count - 1)),
        positions=(PositionLimits(),) * positions,
        links=PositionLinks.uniform(positions, 0.0, 0.01),
        microbatches=microbatches,
        **others,
    )


def test_what_a_placement_says():
    problem = chain(8, 2, 4, parameters=(ParameterUse("tied", 10.0, (0, 7), 1.0), ParameterUse("w", 5.0, (3,))))
    found = place(problem, schedule="1f1b", tries=0)
    timeline = simulate(found.pipeline, found.schedule)
    assert found.makespan == timeline.makespan >= found.bound == placement_bound(problem)
    assert 0 < found.gap < 0.5
    assert found.cut_bytes == 4 * 2.0
    assert found.imbalance == pytest.approx(max(found.seconds) / mean(found.seconds))
    assert sum(found.seconds) == pytest.approx(4 * 8 * 3.0 + 2 * 2 * 0.005)
    assert sum(found.memory) == 10 + 10 + 5 + sum(timeline.peak)


def test_the_same_again():
    problem = random_problem(random.Random(5))[0]
    assert place(problem) == place(problem)


def test_schedules_that_are_asked_for_by_name():
    problem = chain(12, 3, 6)
    best = {
        name: place(problem, segments_per_position=2, schedule=name) for name in ("auto", "gpipe", "interleaved", "zb")
    }
    assert min(each.makespan for each in best.values()) == best["auto"].makespan
    assert max(best["zb"].assignment.position.count(q) for q in range(3)) == 1


def test_pins_and_bans_are_heeded():
    problem = chain(9, 3, 4, pins=((0, 2), (8, 2)), bans=((4, 0),))
    at = place(problem, segments_per_position=2).assignment.positions
    assert (at[0], at[8]) == (2, 2)
    assert at[4] != 0


def test_a_pin_that_no_schedule_can_heed_is_refused():
    problem = chain(3, 2, 2, pins=((0, 0), (1, 1), (2, 0)))
    assert place(problem, segments_per_position=2).assignment.position == (0, 1, 0)
    with pytest.raises(ConfigError, match=r"position 0 2 times(.|\n)*- c0\n *- c1\n *- c2\n *fix: --segments 2"):
        place(problem, segments_per_position=1)


def test_memory_divides_a_chain_that_is_best_on_one_position():
    problem = replace(chain(6, 2, 1), idle=True, links=PositionLinks.uniform(2, 1.0, 1.0))
    assert len(set(place(problem).assignment.position)) == 1
    tight = replace(problem, positions=(PositionLimits(1.0, 4.0),) * 2)
    found = place(tight)
    assert len(set(found.assignment.position)) == 2
    assert max(found.memory) <= 4.0


def test_more_than_a_hundred_calls():
    problem = chain(200, 4, 8)
    found = place(problem, segments_per_position=2)
    others = compare(problem)
    assert list(others) == ["round robin", "equal counts", "equal work"]
    assert found.makespan <= min(each.makespan for each in others.values()) * (1 + 1e-9)
    assert found.gap < 0.1
    assert assign(problem, found.assignment.segment, found.assignment.position) == found.assignment


def test_a_baseline_that_is_not_allowed_is_none():
    assert compare(chain(4, 2, 2, pins=((0, 1),))) == {"round robin": None, "equal counts": None, "equal work": None}
