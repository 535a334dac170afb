"""The parts of the solvers, each against trying every choice."""

import itertools
import math

import numpy as np
import pytest
from random_problems import layered_problem, random_problem, told

from autopar.partitioner.problem import Choices, Edge, NoChoice, Problem, evaluate
from autopar.partitioner.solvers.ilp import least_peak, solve_core
from autopar.partitioner.solvers.lagrangian_dual import (
    ascend,
    decode,
    excess,
    links,
    priced,
    silence,
    sweep,
    used,
    value,
)
from autopar.partitioner.solvers.local_search import (
    LocalSearch,
    descend,
    exchange,
    first_fit,
    overuse,
    repair,
    resettle,
)
from autopar.partitioner.solvers.presolve import Wiped, core, eliminate_all, factors, reduce, restore
from autopar.partitioner.solvers.solve import solve

SEEDS = range(60)


def every_choice(small):
    """All (cost, choice) of a core that fit, cheapest first."""
    found = []
    for picks in itertools.product(*(range(costs.size) for costs in small.costs)):
        choice = np.array(picks, dtype=np.intp)
        if overuse(small, choice) <= 0 and math.isfinite(cost := value(small, choice)):
            found.append((cost, picks))
    return sorted(found)


def reduced(seed, **options):
    f = factors(random_problem(seed, **options))
    reduce(f)
    return f, core(f)


def feasible(seed):
    try:
        return solve(random_problem(seed), "exhaustive")
    except NoChoice:
        return None


def test_reductions_keep_the_optimum_and_the_way_back_keeps_the_cost():
    for seed in range(120):
        with told(f"seed {seed}"):
            reductions_keep_the_optimum_and_the_way_back_keeps_the_cost(seed)


def reductions_keep_the_optimum_and_the_way_back_keeps_the_cost(seed):
    problem, best = random_problem(seed), feasible(seed)
    f = factors(problem)
    try:
        reduce(f)
    except Wiped:
        assert best is None
        return
    small = core(f)
    choices = every_choice(small)
    assert bool(choices) == (best is not None)
    for cost, picks in choices[:20]:
        full = restore(f, dict(zip(small.nodes, picks, strict=True)))
        assert evaluate(problem, full)[0] == pytest.approx(cost, abs=1e-9)
    if best is not None:
        assert choices[0][0] == pytest.approx(best.cost, abs=1e-9)


def test_reductions_shrink():
    """Without a limit a chain and a tree vanish; a limit that binds keeps the nodes that it is about."""
    for seed in range(40):
        problem = random_problem(seed)
        if seed % 4 < 2 and problem.limit is None and feasible(seed):
            assert not reduced(seed)[1].costs


def test_elimination_is_exact():
    for seed in SEEDS:
        with told(f"seed {seed}"):
            elimination_is_exact(seed)


def elimination_is_exact(seed):
    problem = random_problem(seed)
    free = Problem(problem.nodes, problem.edges)
    f = factors(free)
    try:
        assert eliminate_all(f, math.inf, math.inf)
    except Wiped:
        with pytest.raises(NoChoice):
            solve(free, "exhaustive")
        return
    best = solve(free, "exhaustive").cost
    assert f.constant == pytest.approx(best, abs=1e-9)
    assert evaluate(free, restore(f, {}))[0] == pytest.approx(best, abs=1e-9)


def test_elimination_refuses_what_is_too_large():
    rng = np.random.default_rng(0)
    nodes = tuple(Choices(f"n{i}", rng.random(9), np.zeros(9), 0, 1) for i in range(6))
    f = factors(Problem(nodes, tuple(Edge(a, b, rng.random((9, 9))) for a in range(6) for b in range(a + 1, 6))))
    assert not eliminate_all(f, 1e4, math.inf)
    assert not eliminate_all(f, math.inf, 1e4)
    assert len(f.costs) == 6
    assert eliminate_all(f, 1e7, 1e5)


def test_the_bound_holds_at_any_prices_and_after_any_sweep():
    for seed in SEEDS:
        with told(f"seed {seed}"):
            the_bound_holds_at_any_prices_and_after_any_sweep(seed)


def the_bound_holds_at_any_prices_and_after_any_sweep(seed):
    if not feasible(seed):
        return
    _, small = reduced(seed)
    choices = every_choice(small)
    rng = np.random.default_rng(seed)
    net, messages = links(small), silence(small)
    for _ in range(8):
        prices = rng.random(small.room.size) * rng.integers(0, 2)
        bound = small.constant + sweep(priced(small, prices), net, messages) - float(prices @ small.room)
        assert bound <= choices[0][0] + 1e-9


def test_at_fixed_prices_the_bound_never_falls_and_meets_a_tree():
    for seed in range(1, 80, 4):
        problem = random_problem(seed)
        f = factors(Problem(problem.nodes, problem.edges))
        small = core(f)
        if any(not np.isfinite(costs).all() for costs in (*small.costs, *(edge.costs for edge in small.edges))):
            continue
        net, messages = links(small), silence(small)
        bounds = [sweep(list(small.costs), net, messages) for _ in range(4)]
        assert all(after >= before - 1e-9 for before, after in itertools.pairwise(bounds))
        best = every_choice(small)[0][0]
        assert bounds[0] == pytest.approx(best, abs=1e-9)
        assert value(small, decode(list(small.costs), net, messages)) == pytest.approx(best, abs=1e-9)


def test_what_exceeds_the_best_cost_is_in_no_better_choice():
    """The excess of a strategy or pair is at most what the best choice with it costs above the bound."""
    for seed in SEEDS:
        with told(f"seed {seed}"):
            what_exceeds_the_best_cost_is_in_no_better_choice(seed)


def what_exceeds_the_best_cost_is_in_no_better_choice(seed):
    if not feasible(seed):
        return
    _, small = reduced(seed)
    choices = every_choice(small)
    dual = ascend(small, 30, lambda choice, prices: math.inf)
    alone, pairs = excess(small, dual)
    for cost, picks in choices:
        slack = cost - dual.bound + 1e-9 * (1 + abs(cost))
        assert all(own[s] <= slack for own, s in zip(alone, picks, strict=True))
        assert all(own[picks[edge.a], picks[edge.b]] <= slack for edge, own in zip(small.edges, pairs, strict=True))


def test_the_integer_program_of_a_core():
    for seed in SEEDS:
        with told(f"seed {seed}"):
            the_integer_program_of_a_core(seed)


def the_integer_program_of_a_core(seed):
    if not feasible(seed):
        return
    _, small = reduced(seed)
    found = solve_core(small, 30.0)
    assert found.finished
    assert value(small, found.choice) == pytest.approx(every_choice(small)[0][0], abs=1e-9)


def test_least_peak():
    for seed in SEEDS:
        with told(f"seed {seed}"):
            least_peak_is_exhaustive(seed)


def least_peak_is_exhaustive(seed):
    problem = random_problem(seed)
    found = least_peak(problem, 30.0)
    try:
        least = solve(Problem(problem.nodes, problem.edges, 0.0), "exhaustive").peak
    except NoChoice as error:
        least = error.least_peak
    if least is None:
        assert found is None
        return
    peak, choice, proven = found
    assert proven
    assert peak == pytest.approx(least)
    cost, held = evaluate(problem, choice)
    assert math.isfinite(cost)
    assert held == peak


def state_of(small):
    return LocalSearch(small, links(small), math.inf)


@pytest.mark.parametrize("seed", range(6))
def test_the_steps_of_the_search(seed):
    """Repair makes a choice fit; descent and exchange keep it so, and never raise the cost; so does a ball solved again."""
    f = factors(layered_problem(seed, count=16, strategies=8, tight=0.3))
    reduce(f)
    small = core(f)
    state = state_of(small)
    choice = np.array([int(memory.argmax()) for memory in small.memory], dtype=np.intp)
    assert overuse(small, choice) > 0
    assert repair(state, choice)
    assert (used(small, choice) <= small.room).all()
    costs = [value(small, choice)]
    for step in (descend, exchange):
        step(state, choice)
        assert overuse(small, choice) <= 0
        costs.append(value(small, choice))
    assert state.offer(choice)
    resettle(state, ascend(small, 40, lambda choice, prices: costs[-1]).prices, 6)
    costs.append(state.cost)
    assert costs == sorted(costs, reverse=True)
    assert state.cost == pytest.approx(value(small, state.choice))
    assert overuse(small, state.choice) <= 0


def test_first_fit_is_complete():
    for seed in range(160):
        with told(f"seed {seed}"):
            first_fit_is_complete(seed)


def first_fit_is_complete(seed):
    problem = random_problem(seed)
    f = factors(problem)
    if any(not np.isfinite(costs).all() for costs in f.costs.values()):
        return
    small = core(f)
    start, complete = first_fit(state_of(small), list(small.costs), 100_000)
    assert complete
    assert (start is None) == (feasible(seed) is None)
    if start is not None:
        assert overuse(small, start) <= 0
        assert math.isfinite(value(small, start))


def test_first_fit_gives_up_when_its_trials_are_spent():
    nodes = tuple(Choices(f"n{i}", np.zeros(3), np.zeros(3), 0, 1) for i in range(5))
    differ = np.where(np.eye(3, dtype=bool), np.inf, 0.0)
    small = core(factors(Problem(nodes, tuple(Edge(a, b, differ) for a in range(5) for b in range(a + 1, 5)))))
    assert first_fit(state_of(small), list(small.costs), 1000) == (None, True)
    assert first_fit(state_of(small), list(small.costs), 0) == (None, False)
