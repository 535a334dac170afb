"""A memory limit holds for the peak: the ladder of the solver's limits, and the plans that come out."""

import dataclasses
import math
import re
from types import SimpleNamespace

import pytest
from compiling import compiled, compiled_once, lowered
from hypothesis import given
from hypothesis import strategies as st

from autopar.analysis.baseline_comparison import compare
from autopar.codegen.memory_footprint import footprint
from autopar.errors import InfeasiblePlan
from autopar.partitioner.problem import NoChoice, Problem
from autopar.planning.memory_limit import NextLimit, look_closer, next_limit


def searched(tried, made, carry, step):
    """What a search comes to, with every limit that it asks for tried."""
    while isinstance(found := step(tried), NextLimit):
        try:
            answer = carry(dataclasses.replace(made, problem=Problem((), limit=found.limit)))
        except NoChoice as error:
            answer = error
        tried[found.limit] = answer
    return found


def fitted(made, limit, carry, below=math.inf):
    return searched({}, made, carry, lambda tried: next_limit(tried, limit, below))


def closest(made, limit, carry):
    """The search with its second look."""
    found = fitted(made, limit, carry)
    return searched(dict(found.tried), made, carry, lambda tried: look_closer(tried, limit)) if found.tried else found


@dataclasses.dataclass(frozen=True)
class Made:
    """Stands for a priced graph: plans as (cost, bytes kept, peak)."""

    plans: tuple[tuple[int, int, int], ...]
    problem: Problem = dataclasses.field(default_factory=lambda: Problem(()))


def carry(made):
    limit = made.problem.limit
    within = [one for one in made.plans if limit is None or one[1] <= limit]
    if not within:
        raise NoChoice("", limit, float(min(one[1] for one in made.plans)))
    cost, kept, peak = min(within)
    return SimpleNamespace(
        plan=(cost, kept, peak),
        solution=SimpleNamespace(cost=cost, bound=cost, peak=float(kept)),
        held=SimpleNamespace(peak=peak),
        peak=peak,
    )


Sizes = st.integers(1, 10_000)
Plans = st.lists(st.tuples(Sizes, Sizes, Sizes), min_size=1, max_size=20, unique=True)


@given(Plans, Sizes)
def test_the_least_peak_is_a_limit_that_works_and_nothing_below_it(plans, limit):
    made = Made(tuple(plans))
    found = closest(made, limit, carry)
    assert found.least.plan in plans
    if found.best is not None:
        assert found.best.held.peak <= limit
        return
    least = found.least.held.peak
    assert least > limit
    enough, less = closest(made, least, carry), closest(made, least - 1, carry)
    assert enough.best.held.peak <= least
    assert less.best is None
    assert less.least.held.peak == least


@given(Plans, st.integers(0, 5000), Sizes)
def test_where_peaks_grow_with_what_is_kept_hardly_anything_cheaper_fits(plans, beside, limit):
    made = Made(tuple((cost, kept, kept + beside) for cost, kept, _ in plans))
    found = fitted(made, limit, carry).best
    well_within = [cost for cost, kept, _ in made.plans if kept <= 0.96 * (limit - beside)]
    assert (found is not None) == any(peak <= limit for _, _, peak in made.plans)
    assert not well_within or found.solution.cost <= 1.0011 * min(well_within)


def test_what_costs_more_than_a_plan_that_is_known_is_not_looked_at():
    made = Made(((5, 100, 100), (7, 10, 10)))
    assert fitted(made, 50, carry).best.plan == (7, 10, 10)
    assert fitted(made, 50, carry, below=5.0) is None
    assert fitted(made, 50, carry, below=6.0).best.plan == (7, 10, 10)


@pytest.mark.parametrize("least", [None, float("inf")])
def test_a_solver_without_time_ends_the_search(least):
    made = Made(((5, 100, 100), (7, 10, 10)))

    def hurried(one):
        if one.problem.limit is not None and one.problem.limit < 60:
            raise NoChoice("", one.problem.limit, least, False)
        return carry(one)

    assert fitted(made, 50, hurried).best.plan == (7, 10, 10)
    found = closest(made, 5, hurried)
    assert found.best is None
    assert found.hurried
    assert found.least.plan == (7, 10, 10)


SHARES = (0.8, 0.4)
CASES = [("mlp", "2"), ("conv", "2"), ("attention", "2x2"), ("wide_mlp", "4"), ("big_image", "2")]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(("name", "grid"), CASES)
def test_a_plan_s_peak_is_within_the_limit_or_the_limit_that_is_named_works(name, grid, share):
    one = compiled_once(name, grid)
    limit = int(share * one.plan.predicted.bytes)
    try:
        found = one.replan(memory=limit)
    except InfeasiblePlan as error:
        advised = re.search(r"raise --memory to (\S+?)[,\n]", str(error) + "\n").group(1)
        found = one.replan(memory=advised)
        assert found.plan.options.memory > limit
    predicted = found.plan.predicted.bytes
    assert predicted <= found.plan.options.memory
    decision, program = lowered(found)
    assert footprint(found.built, decision, program, "adamw").peak == predicted


def test_of_all_grids_those_whose_peak_fits():
    one = compiled("mlp", "auto", ranks=4)
    limit = min(tried.bytes for tried in one.grids) + 1
    found = compiled("mlp", "auto", ranks=4, memory=limit)
    assert found.plan.predicted.bytes <= limit
    assert all(tried.refused or tried.bytes <= limit for tried in found.grids)


def test_only_plans_whose_peak_fits_are_rivals():
    one = compiled_once("gpt", "2")
    limit = int(0.9 * one.plan.predicted.bytes)
    rows = compare(one.replan(memory=limit))
    assert {row.fits for row in rows} == {True, False}
    assert all(row.refused or row.fits == (row.bytes <= limit) for row in rows)
