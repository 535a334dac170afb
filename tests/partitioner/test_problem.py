import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import random_problem

from autopar.errors import PlanError
from autopar.partitioner.problem import (
    Choices,
    Edge,
    Problem,
    Solution,
    check,
    deciding_times,
    evaluate,
    fits,
    merge,
    relative_gap,
)
from autopar.partitioner.solvers.exhaustive import solve_exhaustively


def node(costs=(1.0, 2.0), memory=(3.0, 4.0), start=0, stop=1, name="n"):
    return Choices(name, np.array(costs, dtype=float), np.array(memory, dtype=float), start, stop)


def test_evaluate_by_hand():
    table = np.array([[10.0, np.inf], [30.0, 40.0]])
    problem = Problem((node(start=0, stop=2), node(start=1, stop=3)), (Edge(0, 1, table),), 7.0)
    assert evaluate(problem, [1, 0]) == (2 + 1 + 30, 4 + 3)
    assert evaluate(problem, [0, 1])[0] == math.inf


def test_nodes_that_are_never_live_together_do_not_add_up():
    problem = Problem((node(start=0, stop=1), node(start=1, stop=2), node(start=1, stop=1, memory=(99, 99))), (), None)
    assert evaluate(problem, [1, 0, 0])[1] == 4


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=8))
def test_live_sets_are_the_maximal_ones(spans):
    nodes = tuple(node(start=start, stop=start + length) for start, length in spans)
    every = {frozenset(i for i, n in enumerate(nodes) if n.start <= t < n.stop) for t in range(15)}
    maximal = {live for live in every if live and not any(live < other for other in every)}
    first, last, times = deciding_times(Problem(nodes))
    found = [[i for i in range(len(nodes)) if first[i] <= k < last[i]] for k in range(times)]
    assert {frozenset(live) for live in found} == maximal
    assert len(found) == len(maximal)


@pytest.mark.parametrize("seed", range(40))
def test_merging_parallel_edges_keeps_every_cost(seed):
    problem = random_problem(seed)
    merged = merge(problem)
    ends = [(edge.a, edge.b) for edge in merged.edges]
    assert ends == sorted(set(ends))
    assert all(a < b for a, b in ends)
    rng = np.random.default_rng(seed)
    for _ in range(10):
        choice = [int(rng.integers(0, n.costs.size)) for n in problem.nodes]
        assert evaluate(merged, choice) == pytest.approx(evaluate(problem, choice))


MALFORMED = {
    "backwards": Problem((node(start=3, stop=1),)),
    "no list of strategies": Problem((node(costs=(), memory=()),)),
    "memory of shape": Problem((node(memory=(1.0,)),)),
    "NaN or -inf": Problem((node(costs=(np.nan, 1.0)),)),
    "negative, infinite or NaN": Problem((node(memory=(-1.0, 1.0)),)),
    "none of the 2": Problem((node(), node()), (Edge(0, 2, np.zeros((2, 2))),)),
    "with itself": Problem((node(),), (Edge(0, 0, np.zeros((2, 2))),)),
    "costs of shape": Problem((node(), node()), (Edge(0, 1, np.zeros((2, 3))),)),
    "edge 0-1 has a cost that is NaN": Problem((node(), node()), (Edge(0, 1, np.full((2, 2), np.nan)),)),
    "the limit is nan": Problem((node(),), (), math.nan),
    "the limit is -1": Problem((node(),), (), -1.0),
}


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_problems_are_refused(text):
    with pytest.raises(PlanError, match=text):
        check(MALFORMED[text])


def test_all_offenders_are_named():
    with pytest.raises(PlanError) as caught:
        check(Problem((node(start=3, stop=1, name="first"), node(costs=(np.nan, 0.0), name="second"))))
    assert "first" in str(caught.value)
    assert "second" in str(caught.value)


def test_gap():
    assert relative_gap(10.0, 9.0) == pytest.approx(0.1)
    assert relative_gap(-9.0, -10.0) == pytest.approx(1 / 9)
    assert relative_gap(0.0, 0.0) == 0
    assert relative_gap(5.0, 5.0 - 1e-12) == 0
    assert Solution((), 4.0, 3.0, "x", 0.0, 0.0).gap == 0.25


def test_fits_up_to_rounding_only():
    assert fits(0.1 + 0.2, 0.3)
    assert not fits(1e9 + 1, 1e9)
    assert fits(1e9, None)


def test_exhaustive_by_hand():
    problem = Problem((node(), node()), (Edge(0, 1, np.array([[5.0, 0.0], [0.0, 9.0]])),), 7.0)
    found = solve_exhaustively(problem)
    assert (found.choice, found.cost, found.bound, found.peak) == ((0, 1), 3.0, 3.0, 7.0)


def test_exhaustive_is_guarded():
    with pytest.raises(PlanError, match="1024 combinations"):
        solve_exhaustively(Problem(tuple(node() for _ in range(10))), most=1000)
