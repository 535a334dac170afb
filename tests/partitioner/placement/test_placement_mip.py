"""The integer program: legal assignments, and a bound that the oracle never falls below."""

import random
from dataclasses import replace
from itertools import combinations

import pytest

from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
from autopar.partitioner.placement.assignment import assign, is_legal, pipeline
from autopar.partitioner.placement.bounds import pipeline_bound, placement_bound
from autopar.partitioner.placement.chain_cuts import labels_of
from autopar.partitioner.placement.exhaustive import exhaustive
from autopar.partitioner.placement.judging import Judge
from autopar.partitioner.placement.mip import solve_mip
from autopar.partitioner.placement.problem import CallWork, PlacementProblem, TensorUse
from benchmarks.placement.random_problems import random_problem


@pytest.mark.parametrize("seed", range(8))
def test_a_bound_of_every_placement(seed):
    problem, most = random_problem(random.Random(seed), 8)
    optimum = exhaustive(problem, most, Judge(problem, "auto"))
    found = solve_mip(problem, most)
    assert found.proven
    assert is_legal(problem, found.assignment, most)
    assert placement_bound(problem) * (1 - 1e-6) <= found.bound <= optimum.makespan * (1 + 1e-6)
    assert found.objective == pytest.approx(found.bound, rel=1e-5)
    assert found.objective <= pipeline_bound(pipeline(problem, found.assignment)) * (1 + 1e-6)


def test_a_chain():
    rng = random.Random(0)
    work = [rng.uniform(0.5, 2.0) for _ in range(40)]
    chain = PlacementProblem(
        tuple(CallWork(f"c{k}", seconds, 2 * seconds) for k, seconds in enumerate(work)),
        tuple(TensorUse(f"t{k}", k, (k + 1,), 1.0, 1.0) for k in range(39)),
        (),
        (PositionLimits(),) * 3,
        PositionLinks.uniform(3, 0.0, 0.0),
        microbatches=8,
    )
    cuts = ([0, a, b] for a, b in combinations(range(1, 40), 2))
    best = min(pipeline_bound(pipeline(chain, assign(chain, labels_of(cut, 40), range(3)))) for cut in cuts)
    assert solve_mip(chain).objective == pytest.approx(best, rel=1e-5)


def test_memory_that_nothing_fits():
    problem, _ = random_problem(random.Random(2), 6)
    assert solve_mip(replace(problem, positions=(PositionLimits(1.0, 0.1),) * 2)).assignment is None
