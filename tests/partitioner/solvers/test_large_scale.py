import importlib
import time

import numpy as np
import pytest
from random_problems import SHAPES, layered_problem, random_problem, told

from autopar.partitioner.problem import NoChoice, Problem, deciding_times, evaluate, fits
from autopar.partitioner.solvers import forest_neighbourhoods, trws_kernels
from autopar.partitioner.solvers.flat_problem import flatten
from autopar.partitioner.solvers.large_scale import priced, proven, solve_large
from autopar.partitioner.solvers.solve import solve


def test_flat_arrays_say_the_same():
    for seed in range(30):
        with told(f"seed {seed}"):
            flat_arrays_say_the_same(seed)


def flat_arrays_say_the_same(seed):
    problem = random_problem(seed)
    flat, rng = flatten(problem), np.random.default_rng(seed)
    times = 0
    first, last, count = deciding_times(problem)
    for k in range(count) if problem.limit is not None else ():
        live = np.flatnonzero((first <= k) & (k < last))
        times += sum(float(problem.nodes[i].memory.max()) for i in live) > problem.limit
    assert flat.room.size == times
    for _ in range(5):
        choice = np.array([rng.integers(node.costs.size) for node in problem.nodes])
        cost, peak = evaluate(problem, choice)
        assert trws_kernels.value(flat, choice) == pytest.approx(cost) if np.isfinite(cost) else flat.huge
        held = trws_kernels.held(flat, choice)
        assert held == pytest.approx(trws_kernels.roughly_held(flat, choice))
        assert (held > flat.room).any() == (not fits(peak, problem.limit))


def test_any_messages_and_prices_prove_a_bound():
    for seed in range(0, 120, 12):
        with told(f"seed {seed}"):
            any_messages_and_prices_prove_a_bound(seed)


def any_messages_and_prices_prove_a_bound(seed):
    problem = random_problem(seed)
    try:
        best = solve(problem, "exhaustive").cost
    except NoChoice:
        return
    flat, rng = flatten(problem), np.random.default_rng(seed)
    prices = rng.random(flat.room.size)
    messages = rng.normal(size=flat.messages)
    assert proven(flat, prices, messages) <= best
    own, prefer = priced(flat, prices), np.zeros(len(problem.nodes), dtype=np.int64)
    for _ in range(10):
        bound = trws_kernels.sweep(flat, own, messages, prefer) - prices @ flat.room
        assert bound <= best + 1e-9 * abs(best)
        assert proven(flat, prices, messages) == pytest.approx(bound, abs=1e-6 * flat.huge**0.5)
        assert proven(flat, prices, messages) <= best


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_forests_have_no_cycle(shape):
    problem = random_problem(shape + 4 * 9, most_nodes=40)
    flat = flatten(problem)
    forest = forest_neighbourhoods.space(flat, len(problem.nodes))
    for seed in range(len(problem.nodes)):
        count = forest_neighbourhoods.grow(flat, forest, seed, seed + 1, 0, len(problem.nodes))
        taken = forest.node[:count].tolist()
        inside = sum({a, b} <= set(taken) for a, b in zip(flat.a.tolist(), flat.b.tolist(), strict=True))
        assert len(set(taken)) == count >= 1
        assert inside == count - 1


@pytest.mark.parametrize("tight", [0.2, pytest.param(0.5, marks=pytest.mark.zoo), 1.0])
def test_the_answer_fits_and_is_near_the_optimum(tight):
    problem = layered_problem(5, count=9, strategies=5, tight=tight)
    best = solve(problem, "ilp")
    heard = []
    found = solve_large(problem, time.perf_counter() + 0.7, lambda cost, bound: heard.append((cost, bound)))
    assert found.choice is not None
    cost, peak = evaluate(problem, found.choice)
    assert fits(peak, problem.limit)
    assert cost == pytest.approx(found.cost)
    assert best.cost * (1 - 1e-9) <= cost <= 1.1 * best.cost
    assert found.bound <= best.cost * (1 + 1e-9)
    assert heard[-1] == (found.cost, pytest.approx(found.bound))


def test_what_cannot_fit_is_not_found():
    problem = layered_problem(5, count=12, strategies=6, tight=-0.1)
    found = solve_large(problem, time.perf_counter() + 0.5)
    assert found.choice is None
    peak, choice, _ = found.nearest
    assert choice == () or peak == evaluate(problem, choice)[1] > problem.limit


def test_without_a_limit():
    limited = layered_problem(2, count=10, strategies=5)
    problem = Problem(limited.nodes, limited.edges)
    found = solve_large(problem, time.perf_counter() + 1.0)
    assert found.choice is not None
    assert found.cost == pytest.approx(solve(problem).cost, rel=0.02)


def test_no_time_at_all_still_finds_a_choice_where_nothing_limits(monkeypatch):
    """Time may be up before the search begins: pricing took it."""
    module = importlib.import_module("autopar.partitioner.solvers.solve")
    monkeypatch.setattr(module, "_is_large", lambda problem: True)
    monkeypatch.setattr(module, "_MORE", 0.1)
    for seed in range(3, 200, 16):  # few pairs are forbidden
        problem = Problem(random_problem(seed).nodes, random_problem(seed).edges)
        found = solve(problem, "auto", time_limit=1e-6)
        assert np.isfinite(evaluate(problem, found.choice)[0])
