"""The best move of segments: against all assignments there are, and what it is asked to heed."""

import random
from dataclasses import replace
from itertools import product
from unittest import mock

import pytest

from autopar.errors import InfeasiblePlan
from autopar.ir.pipeline.positions import PositionLimits
from autopar.partitioner.placement import relocation
from autopar.partitioner.placement.assignment import pipeline
from autopar.partitioner.placement.relocation import at_places, best_move, moved_bytes
from autopar.partitioner.schedules.auto import auto
from autopar.partitioner.schedules.simulate import makespan, simulate
from benchmarks.placement.random_problems import random_problem

STEPS = 50


def price(size):
    return 0.3 * size


def drawn(seed, calls, limited=False):
    """A problem, where its segments stand, and the lists that run."""
    rng = random.Random(seed)
    problem, _ = random_problem(rng, calls)
    if not limited:
        problem = replace(problem, positions=tuple(PositionLimits(one.speed) for one in problem.positions))
    slow = rng.randrange(len(problem.positions))
    positions = tuple(
        PositionLimits(one.speed * (0.5 if q == slow else 1.0), one.memory) for q, one in enumerate(problem.positions)
    )
    problem = replace(problem, positions=positions)
    for _ in range(50):
        places = tuple(rng.randrange(len(positions)) for _ in problem.calls)
        if relocation._legal(problem, places) and (lists := schedule(problem, places)) is not None:
            return problem, places, lists
    pytest.skip("no room for any")


def schedule(problem, places):
    try:
        return auto(pipeline(problem, at_places(places)), tries=0)
    except InfeasiblePlan:
        return None


def oracle(problem, here, lists):
    """The least of what moving and so many steps come to, over all assignments."""
    costs = [STEPS * makespan(pipeline(problem, at_places(here)), lists)]
    for places in product(range(len(problem.positions)), repeat=len(here)):
        if relocation._legal(problem, places) and (found := schedule(problem, places)) is not None:
            moved = price(moved_bytes(problem, here, places))
            costs.append(STEPS * makespan(pipeline(problem, at_places(places)), found) + moved)
    return min(costs)


def cost_of(found, before):
    return STEPS * before if found is None else STEPS * found.after + price(found.bytes)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_best_of_all_assignments(seed):
    problem, here, lists = drawn(seed, 5)
    found = best_move(problem, here, lists, price, STEPS)
    before = makespan(pipeline(problem, at_places(here)), lists)
    assert cost_of(found, before) == pytest.approx(oracle(problem, here, lists))
    if found is not None:
        assert found.before == pytest.approx(before)
        assert found.after == pytest.approx(simulate(pipeline(problem, at_places(found.places)), found.lists).makespan)
        assert found.bytes == moved_bytes(problem, here, found.places)
        assert {**dict(enumerate(here)), **found.moves(here)} == dict(enumerate(found.places))


def test_moves_and_swaps_come_near_the_best():
    above = []
    with mock.patch.object(relocation, "_ALL", 0):
        for seed in (2, 6, 8):
            problem, here, lists = drawn(seed, 6)
            found = best_move(problem, here, lists, price, STEPS)
            before = makespan(pipeline(problem, at_places(here)), lists)
            above.append(cost_of(found, before) / oracle(problem, here, lists) - 1)
    assert max(above) < 0.05


@pytest.mark.parametrize("seed", range(8))
def test_memory_limits_hold(seed):
    problem, here, lists = drawn(seed, 6, limited=True)
    found = best_move(problem, here, lists, price, STEPS)
    if found is not None:
        task = pipeline(problem, at_places(found.places))
        peaks = simulate(task, found.lists).peak
        assert all(peak <= task.most(q) * (1 + 1e-9) for q, peak in enumerate(peaks))


def test_what_costs_more_than_it_saves_is_no_move():
    problem, here, lists = drawn(2, 5)
    free = best_move(problem, here, lists, lambda size: 0.0, STEPS)
    assert free is not None
    saved = free.before - free.after
    assert best_move(problem, here, lists, lambda size: 0.0, STEPS, least=1.001 * saved / free.before) is None
    dear = best_move(problem, here, lists, lambda size: size and STEPS * saved, STEPS)
    assert dear is None or dear.bytes == 0
