"""The way from a problem to a solution: which solver, in which order, and what is said when there is none.

`auto` keeps two things, the cheapest choice known and a lower bound, and stops as soon as they meet:

    1. without the limit: reduce, then eliminate all nodes if the tables stay small; if the peak meets the limit, done
    2. with it: reduce, ascend the dual with prices for memory, repair and improve the choices seen on the way (`local_search`)
    3. leave out every strategy and pair that would raise the bound above the known cost, reduce again; 2 while this pays
    4. eliminate what is left, or give it to the integer program (method `search` stops before that)

Problems of which the reductions leave more than `_LARGE` pairs of strategies go to `large_scale` instead, which works on bound and
choice until time is up. Smaller ones are not given to its compiled kernels: to load these takes a second, most solve in less.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from autopar.errors import ConfigError, nearest, refusal
from autopar.partitioner.problem import Array, NoChoice, Problem, Progress, Solution, check, evaluate, fits
from autopar.partitioner.solvers.exhaustive import solve_exhaustively
from autopar.partitioner.solvers.ilp import least_peak, solve_core
from autopar.partitioner.solvers.lagrangian_dual import Choice, excess, value
from autopar.partitioner.solvers.local_search import Effort, SearchResult, search
from autopar.partitioner.solvers.presolve import (
    Core,
    Factors,
    Wiped,
    core,
    eliminate_all,
    factors,
    reduce,
    restore,
    restrict,
)

METHODS = ("auto", "ilp", "search", "exhaustive")
_LIGHT = Effort(sweeps=60, rounds=1, enough=0.02)
"""What `auto` searches before the integer program."""
_BOUND_ONLY = Effort(sweeps=25, rounds=0)
"""The same for problems of more than `_MANY` pairs: there the integer program is done before the local search is."""
_MANY = 40_000
_LARGE = 400_000
"""Problems with tables of more entries in all are not for the integer program: HiGHS takes minutes for its first bound."""
_MORE, _MOST_MORE = 5.0, 40.0
"""Seconds that the search is given once more where its time was too short to find any choice without a limit."""
_NODES = 5_000
"""Problems of more nodes are not reduced first."""
_WIDEST = 64
"""Nodes with more strategies are first thinned by the bound, then tested for dominance."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """A choice (None for none) and its cost, a lower bound, how it was found, and whether it is certain that none exists."""

    choice: tuple[int, ...] | None
    cost: float
    bound: float
    method: str
    impossible: bool = False


def check_method(method: str) -> None:
    """Raise ConfigError for a name that is no solver's."""
    if method not in METHODS:
        fault = f"{method!r} is unknown{nearest(method, METHODS)}"
        raise ConfigError(refusal("solver", fault, "a solver is one of those", METHODS))


def solve(
    problem: Problem, method: str = "auto", time_limit: float = 60.0, progress: Progress = lambda cost, bound: None
) -> Solution:
    """The cheapest choice of strategies that meets the limit, with its bound.

    `time_limit`, in seconds, ends the search; what it is doing then is finished first. Where no choice was found until then
    but there is one, the one with the least peak memory is returned. Large problems tell `progress` the least cost (`inf` for
    none) and the bound, whenever one of them changes.

    Raises PlanError for a malformed problem, ConfigError for an unknown method, NoChoice (an InfeasiblePlan that carries
    `least_peak`) where no choice meets the limit.
    """
    began = time.perf_counter()
    methods: dict[str, Callable[[Problem, float], _Answer]] = {"auto": _auto, "ilp": _ilp, "search": _search}
    check_method(method)
    check(problem)
    if method == "exhaustive":
        return solve_exhaustively(problem)
    if method in ("auto", "search") and _is_large(problem):
        answer = _large(problem, began + time_limit, progress)
    else:
        answer = methods[method](problem, began + time_limit)
    choice, found_by = answer.choice, answer.method
    if choice is None:
        least = least_peak(problem, time_limit)
        if least is None or not fits(least[0], problem.limit):
            raise _no_choice(problem, least)
        choice, found_by = least[1], "least peak"
    cost, peak = evaluate(problem, choice)
    assert fits(peak, problem.limit), "a solver returned a choice above the limit"
    seconds = time.perf_counter() - began
    return Solution(choice, cost, min(answer.bound, cost), found_by, seconds, peak)


def _is_large(problem: Problem) -> bool:
    """Whether more than `_LARGE` pairs remain after the reductions, which are tried where they take no more than seconds."""
    if sum(edge.costs.size for edge in problem.edges) <= _LARGE:
        return False
    if len(problem.nodes) > _NODES:
        return True
    f = factors(problem)
    try:
        reduce(f, widest=_WIDEST)
    except Wiped:
        return False
    return sum(table.size for table in f.tables.values()) > _LARGE


def _large(problem: Problem, deadline: float, progress: Progress) -> _Answer:
    """The search for large problems; where it finds nothing that fits, NoChoice with what comes nearest."""
    from autopar.partitioner.solvers.large_scale import solve_large  # it loads numba, which takes a second

    # The margin is for what is under way at the end, and for the check of the result.
    left = deadline - time.perf_counter()
    best = solve_large(problem, deadline - min(0.5 + 0.02 * left, 0.5 * left), progress)
    more = _MORE
    while (
        best.choice is None and problem.limit is None and more < _MOST_MORE
    ):  # there is a choice, and nothing else to say
        best, more = solve_large(problem, time.perf_counter() + more, progress), 2 * more
    if best.choice is None:
        raise _no_choice(problem, best.nearest)
    return _Answer(best.choice, best.cost, best.bound, "prices and forests")


def _ilp(problem: Problem, deadline: float) -> _Answer:
    """Reductions and the integer program, nothing else."""
    f = factors(problem)
    try:
        reduce(f)
    except Wiped:
        return _Answer(None, math.inf, math.inf, "ilp", True)
    outcome = solve_core(core(f), deadline - time.perf_counter())
    answer = _answer(f, outcome.choice, 0.0, outcome.bound, "ilp" if outcome.finished else "ilp, stopped")
    return replace(answer, impossible=outcome.choice is None and outcome.finished)


def _search(problem: Problem, deadline: float) -> _Answer:
    """`auto` without the integer program."""
    return _auto(problem, deadline, Effort(), programs=False)


def _auto(problem: Problem, deadline: float, effort: Effort = _LIGHT, programs: bool = True) -> _Answer:
    relaxed = _eliminated(replace(problem, limit=None), 3e7)
    if relaxed is not None and relaxed.choice is None:
        return relaxed
    if relaxed is not None and relaxed.choice is not None and fits(evaluate(problem, relaxed.choice)[1], problem.limit):
        return relaxed
    best = _Answer(None, math.inf, -math.inf if relaxed is None else relaxed.bound, "search")
    f = factors(problem)
    try:
        reduce(f, widest=_WIDEST)
        while True:
            small = core(f)
            many = programs and sum(edge.costs.size for edge in small.edges) > _MANY
            result = search(small, _BOUND_ONLY if many else effort, deadline, best.cost)
            best = _better(best, _answer(f, result.choice, result.cost, result.dual.bound, best.method))
            if result.proven or result.impossible:
                return replace(best, impossible=result.impossible)
            prune(f, small, result)
            reduce(f)
            if eliminate_all(f, min(2e9, 1e8 * (deadline - time.perf_counter())), 2e7):
                return _better(best, _Answer(restore(f, {}), f.constant, f.constant, "search and elimination"))
            if sum(map(len, f.costs.values())) > 0.7 * sum(map(len, small.costs)):
                break
    except Wiped:
        # All that is left out costs no less than the best choice known: that is optimal, or there is none.
        return replace(best, bound=max(best.bound, best.cost), impossible=best.choice is None)
    return _better(best, _program(f, deadline, best.cost)) if programs else best


def _program(f: Factors, deadline: float, known: float) -> _Answer:
    """What is left by the integer program, unless building it alone would outlast the time."""
    small = core(f)
    seconds = deadline - time.perf_counter()
    if 1e-4 * sum(np.isfinite(edge.costs).sum() for edge in small.edges) > seconds:
        return _Answer(None, math.inf, -math.inf, "search")
    outcome = solve_core(small, seconds)
    cost = math.inf if outcome.choice is None else value(small, outcome.choice)
    # What was left out costs no less than the known cost, so the program's bound holds up to there.
    answer = _answer(f, outcome.choice, cost, min(outcome.bound, known), "ilp" if outcome.finished else "ilp, stopped")
    return replace(answer, impossible=outcome.finished and outcome.choice is None and math.isinf(known))


def _better(old: _Answer, new: _Answer) -> _Answer:
    """The cheaper of two choices, with the higher of the two bounds and the method that came last."""
    choice, cost = (new.choice, new.cost) if new.cost < old.cost else (old.choice, old.cost)
    return _Answer(choice, cost, max(old.bound, new.bound), new.method, new.impossible)


def _answer(f: Factors, choice: Choice | None, cost: float, bound: float, method: str) -> _Answer:
    """An answer for the original problem, from a choice for the core of `f`."""
    if choice is None:
        return _Answer(None, math.inf, bound, method)
    return _Answer(restore(f, dict(zip(core(f).nodes, choice.tolist(), strict=True))), cost, bound, method)


def _eliminated(problem: Problem, work: float) -> _Answer | None:
    """The optimum by elimination alone, None where that takes more than `work` additions."""
    f = factors(problem)
    try:
        reduce(f, widest=_WIDEST)
        if not eliminate_all(f, work, 2e6):
            return None
    except Wiped:
        return _Answer(None, math.inf, math.inf, "elimination", True)
    return _Answer(restore(f, {}), f.constant, f.constant, "elimination")


def prune(f: Factors, small: Core, result: SearchResult) -> None:
    """Leave out of `f`, whose core `small` was searched, what cannot be part of a choice cheaper than the one found."""
    if math.isinf(result.cost):
        return
    spare = result.cost - result.dual.bound
    spare += 1e-9 * max(abs(result.cost), abs(result.dual.bound), _largest(small.costs))
    alone, pairs = excess(small, result.dual)
    for edge, over in zip(small.edges, pairs, strict=True):
        a, b = small.nodes[edge.a], small.nodes[edge.b]
        scope, over = ((a, b), over) if a < b else ((b, a), over.T)
        f.tables[scope] = np.where(over <= spare, f.tables[scope], np.inf)
    for node, over in zip(small.nodes, alone, strict=True):
        restrict(f, node, over <= spare)


def _largest(costs: tuple[Array, ...]) -> float:
    return max((float(np.abs(own).max()) for own in costs), default=0.0)


def _no_choice(problem: Problem, least: tuple[float, tuple[int, ...], bool] | None) -> NoChoice:
    """The error where none meets the limit: how much memory would do, and what holds it."""
    where = "partition problem"
    if least is None or problem.limit is None:
        rule = "some choice of strategies uses no forbidden strategy and no forbidden pair"
        return NoChoice(refusal(where, "every choice is forbidden", rule), problem.limit, None)
    peak, choice, proven = least
    missed = f"{peak - problem.limit:,.0f} above the limit"
    fault = f"the limit is {problem.limit:,.0f}, and the least peak that any choice reaches is {peak:,.0f}, {missed}"
    if math.isinf(peak):
        fault, fix = (
            f"no choice within the limit of {problem.limit:,.0f} was found in time",
            "allow the solver more time",
        )
        return NoChoice(refusal(where, fault, "peak memory <= limit", fix=fix), problem.limit, peak, False)
    if not proven:
        fault = f"the limit is {problem.limit:,.0f}, and no choice that meets it was found; the least peak found is {peak:,.0f}"
    holders = sorted(((float(n.memory[s]), n.name) for n, s in zip(problem.nodes, choice, strict=True)), reverse=True)
    offenders = [f"{name} holds {held:,.0f} even then" for held, name in holders[:5] if held]
    fix = f"raise the limit to {peak:,.0f}, or use more ranks"
    return NoChoice(refusal(where, fault, "peak memory <= limit", offenders, fix), problem.limit, peak, proven)
