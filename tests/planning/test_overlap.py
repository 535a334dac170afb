"""Gradient sums priced again where a step waits for them: the prices, the search for the right ones, and what plans come out."""

import dataclasses
import functools
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from compiling import SLOW, as_priced, assert_computes_the_same, compiled, compiled_once, digests
from hypothesis import given
from hypothesis import strategies as st

from autopar.analysis.baseline_comparison import compare
from autopar.ir.machine import Link
from autopar.partitioner.formulation.priced_problem import build
from autopar.partitioner.problem import evaluate
from autopar.partitioner.solvers.solve import solve
from autopar.planning import overlap

CASES = [("mlp", "2"), ("mlp", "2x2"), ("gpt", "4"), ("attention", "2x2"), ("conv", "4")]


def linked(rate):
    """Hosts of one rank each, whose gradient sums are said to hide wholly."""
    return dataclasses.replace(SLOW, name="linked", ranks_per_node=1, overlap_inter=1.0, inter=Link(1e-6, rate))


HOPELESS, BUSY, FAST = linked(3e5), linked(3e6), linked(1e12)


@functools.cache
def first_round(*given, **options):
    """The plan as it is without a second look at the sums."""
    with mock.patch.object(overlap, "_ROUNDS", 0):
        return compiled(*given, **options)


@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize(("name", "grid"), CASES)
def test_priced_again_is_priced_with_less_overlap(name, grid, share):
    one = first_round(name, grid, BUSY)
    options = {"limit": None, "optimizer": "adamw", "gathered": False}
    wanted = build(one.subject.annotated, one.built.grid, overlap.with_less_overlap(BUSY, share), **options)
    found = overlap.priced(one.built, share)
    assert found.unhidden == share
    assert found.keys == wanted.keys
    for mine, other in zip(found.problem.nodes, wanted.problem.nodes, strict=True):
        np.testing.assert_allclose(mine.costs, other.costs, rtol=1e-12, atol=1e-18)
    back = overlap.priced(found, 0.0)
    for mine, other in zip(back.problem.nodes, one.built.problem.nodes, strict=True):
        np.testing.assert_allclose(mine.costs, other.costs, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("machine", [HOPELESS, BUSY])
@pytest.mark.parametrize(("name", "grid"), CASES)
def test_a_step_is_never_longer_than_the_first_plan_s(name, grid, machine):
    before, one = first_round(name, grid, machine), compiled_once(name, grid, machine)
    assert one.plan.predicted.seconds <= before.plan.predicted.seconds
    assert as_priced(one) == pytest.approx(one.solution.cost, rel=0.02)
    assert one.solution.bound <= one.solution.cost * (1 + 1e-9)
    assert one.plan.solver.unhidden == one.built.unhidden
    assert before.plan.solver.unhidden == 0


def test_over_a_slow_link_nothing_is_summed_that_would_be_waited_for():
    before, one = first_round("mlp", "2", HOPELESS), compiled_once("mlp", "2", HOPELESS)
    assert before.plan.predicted.gradients > 0.8 * before.plan.predicted.seconds
    assert one.plan.predicted.seconds < 0.3 * before.plan.predicted.seconds
    assert one.plan.solver.unhidden > 0
    assert digests(one) == digests(compiled("mlp", "2", HOPELESS))
    assert_computes_the_same(one, "mlp")


def test_between_all_and_nothing_as_much_is_summed_as_hides():
    """The best plan is neither the one that sums are free for, nor the one that they are waited for in full."""
    one = compiled_once("attention", "2", BUSY)
    assert 0 < one.plan.solver.unhidden < 1
    whole = overlap.priced(one.built, 1.0).problem
    dear = evaluate(whole, solve(whole).choice)[0]
    assert one.plan.predicted.seconds < 0.99 * dear
    assert one.plan.predicted.seconds < 0.9 * first_round("attention", "2", BUSY).plan.predicted.seconds


@pytest.mark.parametrize(("name", "grid"), CASES)
def test_where_sums_hide_nothing_is_solved_again(name, grid):
    told = []
    with mock.patch("autopar.planning.planner.solve", side_effect=solve) as counted:
        one = compiled(name, grid, FAST, progress=lambda *said: told.append(said[:2]))
        plain = first_round(name, grid, FAST)
    assert counted.call_count % 2 == 0
    assert counted.call_count <= 4  # twice each: the plan, and what it costs that blocks share a choice
    assert digests(one) == digests(plain)
    assert [stage for stage, _ in told].count("solved") == 1
    assert "repriced" not in dict(told)


def test_it_is_told():
    told = []
    compiled("mlp", "2", HOPELESS, progress=lambda stage, text, _: told.append((stage, text)))
    again = [text for stage, text in told if stage == "repriced"]
    assert again[0].startswith("gradient sums, 100% of what was to hide counted; the step is ")
    assert again[0].endswith("% shorter")
    assert [stage for stage, _ in told].count("solved") == 1 + len(again)
    assert [stage for stage, _ in told].count("priced") == 1


def test_limits_hold_where_sums_are_priced_again():
    free = compiled_once("attention", "2", BUSY)
    assert free.plan.solver.unhidden > 0
    memory = int(0.95 * free.plan.predicted.bytes)
    before, one = (make("attention", "2", BUSY, memory=memory) for make in (first_round, compiled_once))
    assert one.plan.predicted.bytes <= memory
    assert one.plan.predicted.seconds <= before.plan.predicted.seconds
    assert one.plan.predicted.seconds >= free.plan.predicted.seconds * (1 - 1e-9)


def test_fixed_plans_hold():
    fixed, again = (make("gpt", "2", BUSY, plan="data") for make in (first_round, compiled_once))
    linear = [[node.choices for node in made.plan.nodes if "linear" in node.target] for made in (fixed, again)]
    assert linear[0] == linear[1]
    assert again.plan.predicted.seconds <= fixed.plan.predicted.seconds


@pytest.mark.parametrize(("name", "grid"), [("gpt", "4"), ("conv", "2")])
def test_plans_are_compared_and_explained_by_the_prices_of_the_chosen_one(name, grid):
    one = compiled_once(name, grid, BUSY)
    assert one.plan.solver.unhidden > 0
    rows = compare(one)
    assert rows[0].cost == pytest.approx(one.solution.cost)
    assert all(row.ratio <= 1 + 1e-9 for row in rows[1:] if not row.refused)
    for _, _, alternatives in one.explain("*").calls:
        assert min(other.change for other in alternatives) >= -1e-9 * one.solution.cost


Lines = st.lists(st.tuples(st.floats(1, 10), st.floats(0, 10)), min_size=1, max_size=12, unique=True)


@given(Lines, st.floats(0, 10))
def test_of_all_plans_that_are_best_at_some_price_the_shortest_is_found(lines, room):
    """Plans as (seconds without sums, seconds of sums), and the room that sums have to hide in."""

    def made(line):
        waited = max(0.0, line[1] - room)
        return SimpleNamespace(
            decision=line, built=line, solution=SimpleNamespace(choice=()), waited=waited, seconds=line[0] + waited
        )

    def price(line, share):
        return line[0] + share * line[1]

    def seek(share):
        return made(min(lines, key=lambda line: (price(line, share), line)))

    with (
        mock.patch.object(overlap, "cost", lambda built, choice, share: price(built, share)),
        mock.patch.object(overlap, "_ROUNDS", 50),
        mock.patch.object(overlap, "_CLEARLY", 0.0),
    ):
        tried = []
        while (share := overlap.next_share(tried)) is not None:
            tried.append((share, seek(share)))
        found = overlap.shortest(tried)
    least = max(min(price(line, share) - share * room for line in lines) for share in np.linspace(0, 1, 401))
    assert least <= found.seconds + 1e-9
    tried = [seek(share).seconds for share in np.linspace(0, 1, 401)]
    assert found.seconds <= min(tried) + 1e-6
