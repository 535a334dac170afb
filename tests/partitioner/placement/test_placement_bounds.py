"""No schedule is faster than the bounds, and where a formula is known they meet it."""

import random
from dataclasses import replace

import pytest

from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
from autopar.partitioner.placement.assignment import assign, is_legal, pipeline
from autopar.partitioner.placement.bounds import pipeline_bound, pipeline_estimate, placement_bound
from autopar.partitioner.placement.problem import CallWork, ParameterUse, PlacementProblem, TensorUse
from autopar.partitioner.schedules.auto import auto
from autopar.partitioner.schedules.simulate import makespan
from benchmarks.placement.random_problems import random_problem


def equal_chain(calls, positions, microbatches, weight=0.0):
    return PlacementProblem(
        tuple(CallWork(f"c{k}", 1.0, 2.0, weight) for k in range(calls)),
        tuple(TensorUse(f"t{k}", k, (k + 1,), 1.0, 1.0) for k in range(calls - 1)),
        (),
        (PositionLimits(),) * positions,
        PositionLinks.uniform(positions, 0.0, 0.0),
        microbatches,
    )


@pytest.mark.parametrize(("positions", "microbatches"), [(2, 1), (2, 4), (4, 8), (3, 2)])
def test_equal_stages_take_what_the_formula_says(positions, microbatches):
    problem = equal_chain(positions, positions, microbatches)
    task = pipeline(problem, assign(problem, range(positions), range(positions)))
    assert pipeline_bound(task) == pytest.approx((microbatches + positions - 1) * 3.0)
    assert pipeline_estimate(task) == pipeline_bound(task)


def test_bounds_of_a_placement():
    chain = equal_chain(4, 2, 5)
    assert placement_bound(chain) == pytest.approx(
        max(5 * 4 * 3.0 + 3.0, 0) / 2
    )  # the second position waits for one call
    assert placement_bound(equal_chain(4, 2, 1)) == pytest.approx(4 * 3.0)  # the longest way
    assert placement_bound(equal_chain(2, 2, 5)) == pytest.approx(3.0 + 5 * 3.0)  # the heaviest call and its way
    assert placement_bound(equal_chain(4, 1, 5)) == pytest.approx(5 * 4 * 3.0)


def test_what_is_saved_fills_the_memory():
    chain = equal_chain(4, 2, 50)
    calls = tuple(replace(call, saved=1.0) for call in chain.calls)
    memory = (PositionLimits(1.0, 2.0), PositionLimits(1.0, 3.0))
    kept = 12.0 + 9.0 + 6.0 + 3.0  # seconds from the forward of each call to the end of its backward
    tight = replace(chain, calls=calls, positions=memory, parameters=(ParameterUse("w", 1.0, (0,)),))
    assert placement_bound(tight) == pytest.approx(50 * kept / (2.0 + 3.0 - 1.0))


@pytest.mark.parametrize("seed", range(40))
def test_no_schedule_is_faster(seed):
    rng = random.Random(seed)
    problem, _ = random_problem(rng, 8)
    bound = placement_bound(problem)
    for _ in range(6):
        labels = [rng.randrange(4) for _ in problem.calls]
        assignment = assign(problem, labels, [rng.randrange(len(problem.positions)) for _ in range(4)])
        if assignment is None or not is_legal(problem, assignment, 4):
            continue
        task = pipeline(problem, assignment)
        if task.limit is None:
            best = makespan(task, auto(task))
            assert bound <= pipeline_bound(task) * (1 + 1e-9)
            assert pipeline_bound(task) <= best * (1 + 1e-9)
