import functools
import math
from dataclasses import replace

import numpy as np
import pytest
from random_problems import layered_problem, random_problem, told

from autopar.errors import ConfigError, InfeasiblePlan, PlanError
from autopar.partitioner.problem import Choices, Edge, NoChoice, Problem, evaluate, fits
from autopar.partitioner.solvers.presolve import Wiped, eliminate_all, factors, reduce, restore
from autopar.partitioner.solvers.solve import solve

SEEDS = range(200)
METHODS = ("auto", "ilp", "search")


def outcome(problem, method):
    try:
        return solve(problem, method)
    except NoChoice as error:
        return error


@pytest.fixture(scope="module")
def truth():
    return {seed: outcome(random_problem(seed), "exhaustive") for seed in SEEDS}


def test_the_random_problems_cover_what_matters(truth):
    infeasible = [seed for seed in SEEDS if isinstance(truth[seed], NoChoice)]
    limited = [seed for seed in SEEDS if random_problem(seed).limit is not None]
    assert 12 <= len(infeasible) <= 84
    assert any(truth[seed].least_peak is None for seed in infeasible)
    assert sum(truth[seed].least_peak is not None for seed in infeasible) >= 6
    binding = [
        seed
        for seed in set(limited) - set(infeasible)
        if truth[seed].cost > solve(Problem(random_problem(seed).nodes, random_problem(seed).edges)).cost + 1e-6
    ]
    assert len(binding) >= 22


@pytest.mark.parametrize("method", METHODS)
def test_every_solver_agrees_with_trying_every_choice(method, truth):
    for seed in SEEDS:
        with told(f"seed {seed}"):
            assert_agrees(random_problem(seed), method, truth[seed])


def assert_agrees(problem, method, best):
    found = outcome(problem, method)
    if isinstance(best, NoChoice):
        assert isinstance(found, NoChoice)
        assert found.proven
        assert found.least_peak == (None if best.least_peak is None else pytest.approx(best.least_peak))
        return
    assert not isinstance(found, NoChoice)
    cost, peak = evaluate(problem, found.choice)
    assert (found.cost, found.peak) == (cost, peak)
    assert fits(peak, problem.limit)
    assert found.bound <= best.cost + 1e-9 * abs(best.cost)
    assert found.bound <= found.cost
    if method == "search":
        assert cost >= best.cost - 1e-9 * abs(best.cost)
        assert found.gap > 0 or cost == pytest.approx(best.cost)
    else:
        assert cost == pytest.approx(best.cost)
        assert found.gap == 0


def test_elimination_alone_agrees_with_the_integer_program():
    """The exact methods by themselves, on the problems without their limits: neither leans on the other."""
    for seed in SEEDS[::2]:
        with told(f"seed {seed}"):
            assert_elimination_agrees(replace(random_problem(seed), limit=None))


def assert_elimination_agrees(problem):
    f = factors(problem)
    try:
        reduce(f)
        done = eliminate_all(f, 1e9, 1e7)
    except Wiped:
        with pytest.raises(NoChoice):
            solve(problem, "ilp")
        return
    assert done
    assert (
        evaluate(problem, restore(f, {}))[0] == pytest.approx(f.constant) == pytest.approx(solve(problem, "ilp").cost)
    )


@functools.cache
def of_layers(seed, tight, method):
    """A larger problem, and its solution."""
    problem = layered_problem(seed, count=20, strategies=8, tight=tight)
    return problem, solve(problem, method)


@pytest.mark.parametrize(("seed", "tight"), [(0, 0.05), pytest.param(2, 0.9, marks=pytest.mark.zoo), (3, 0.3)])
def test_larger_problems(seed, tight):
    (problem, exact), (_, mixed), (_, found) = (of_layers(seed, tight, method) for method in ("ilp", "auto", "search"))
    assert exact.gap == mixed.gap == 0
    assert mixed.cost == pytest.approx(exact.cost)
    assert found.bound <= exact.cost * (1 + 1e-9)
    assert exact.cost * (1 - 1e-9) <= found.cost <= exact.cost * 1.05
    assert all(fits(one.peak, problem.limit) for one in (exact, mixed, found))


@pytest.mark.parametrize("method", ["auto", "ilp", "search"])
def test_the_same_problem_gives_the_same_solution(method):
    problem, first = of_layers(3, 0.3, method)
    second = solve(problem, method)
    assert (first.choice, first.cost, first.bound, first.method) == (
        second.choice,
        second.cost,
        second.bound,
        second.method,
    )


@pytest.mark.parametrize("method", ["auto", "ilp", "search", "exhaustive"])
@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e9])
def test_units_do_not_matter(method, factor):
    base = random_problem(20)
    nodes = tuple(Choices(n.name, n.costs * factor, n.memory / factor, n.start, n.stop) for n in base.nodes)
    edges = tuple(Edge(edge.a, edge.b, edge.costs * factor) for edge in base.edges)
    scaled = Problem(nodes, edges, base.limit / factor)
    assert solve(scaled, method).cost == pytest.approx(solve(base, "exhaustive").cost * factor, rel=1e-9)


def test_a_limit_that_cannot_be_met_says_by_how_much():
    memory = np.array([600.0, 500.0])
    nodes = (Choices("big", np.zeros(2), memory, 0, 2), Choices("small", np.zeros(2), memory / 10, 1, 3))
    with pytest.raises(InfeasiblePlan) as caught:
        solve(Problem(nodes, (), 520.0))
    assert isinstance(caught.value, NoChoice)
    assert (caught.value.limit, caught.value.least_peak, caught.value.proven) == (520.0, 550.0, True)
    assert all(text in str(caught.value) for text in ("520", "550", "30 above", "big holds 500", "raise the limit"))
    assert solve(Problem(nodes, (), 550.0)).peak == 550


def test_forbidden_pairs_raise_the_least_peak():
    nodes = tuple(Choices(f"n{i}", np.zeros(2), np.array([1.0, 10.0]), 0, 1) for i in range(2))
    differ = np.array([[np.inf, 0.0], [0.0, np.inf]])
    with pytest.raises(NoChoice) as caught:
        solve(Problem(nodes, (Edge(0, 1, differ),), 5.0))
    assert caught.value.least_peak == 11


@pytest.mark.parametrize("method", ["auto", "ilp", "search", "exhaustive"])
def test_forbidden_pairs_may_leave_nothing(method):
    nodes = tuple(Choices(f"n{i}", np.zeros(1), np.ones(1), 0, 1) for i in range(2))
    for limit in (None, 100.0):
        with pytest.raises(NoChoice) as caught:
            solve(Problem(nodes, (Edge(0, 1, np.full((1, 1), np.inf)),), limit), method)
        assert caught.value.least_peak is None


@pytest.mark.parametrize("method", ["auto", "ilp", "search", "exhaustive"])
def test_small_extremes(method):
    assert solve(Problem(()), method).choice == ()
    lone = Choices("n", np.array([np.inf, 3.0, 2.0]), np.array([0.0, 1.0, 5.0]), 0, 1)
    assert solve(Problem((lone,)), method).choice == (2,)
    assert solve(Problem((lone,), (), math.inf), method).choice == (2,)
    assert solve(Problem((lone,), (), 1.0), method).choice == (1,)
    free = Choices("n", np.array([1.0]), np.array([0.0]), 0, 1)
    assert solve(Problem((free,), (), 0.0), method).cost == 1


def test_unknown_method_and_malformed_problem():
    with pytest.raises(ConfigError, match="did you mean 'search'"):
        solve(Problem(()), "serach")
    with pytest.raises(PlanError, match="none of the 0"):
        solve(Problem((), (Edge(0, 1, np.zeros((1, 1))),)))


def test_wide_tables_fall_back_to_another_solver_with_a_true_bound():
    rng = np.random.default_rng(0)
    nodes = tuple(Choices(f"n{i}", rng.random(5), rng.random(5), 0, 1) for i in range(8))
    edges = tuple(Edge(a, b, rng.random((5, 5))) for a in range(8) for b in range(a + 1, 8))
    found, exact = solve(Problem(nodes, edges), "search"), solve(Problem(nodes, edges), "auto")
    assert exact.gap == 0
    assert found.bound <= exact.cost + 1e-9
    assert exact.cost - 1e-9 <= found.cost <= exact.cost * 1.2


@pytest.mark.parametrize("method", ["auto", "ilp", "search"])
def test_without_time_there_is_still_a_choice_that_fits_and_a_true_bound(method):
    problem, best = of_layers(0, 0.05, "auto")
    hurried = solve(problem, method, time_limit=0.0)
    assert fits(hurried.peak, problem.limit)
    assert hurried.bound <= best.cost * (1 + 1e-9)
    assert hurried.cost >= best.cost * (1 - 1e-9)
