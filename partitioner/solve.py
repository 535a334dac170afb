"""The way from a problem to a solution: which solver, in which order, and what is said when there is none.

`auto` keeps two things, the cheapest choice known and a lower bound, and stops as soon as they meet:

    1. without the limit: reduce, then eliminate all nodes if the tables stay small; if the peak meets the limit, done
    2. with it: reduce, ascend the dual with prices for memory, repair and improve the choices seen on the way (`search`)
    3. leave out every strategy and pair that would raise the bound above the known cost, and reduce again
    4. eliminate what is left, or give it to the integer program
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from autopar.errors import ConfigError, nearest, refusal
from autopar.partitioner.dual import excess
from autopar.partitioner.exhaustive import solve_exhaustively
from autopar.partitioner.ilp import least_peak, solve_core
from autopar.partitioner.problem import Array, NoChoice, Problem, Solution, check, evaluate, fits
from autopar.partitioner.reduce import Factors, Wiped, core, eliminate_all, factors, reduce, restore, restrict
from autopar.partitioner.search import Effort, Found, search

_LIGHT = Effort(sweeps=150, rounds=1)
"""What `auto` searches before the integer program."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """A choice (None for none), a lower bound, how it was found, and whether it is known that none exists."""

    choice: tuple[int, ...] | None
    bound: float
    method: str
    impossible: bool = False


def solve(problem: Problem, method: str = "auto", time_limit: float = 60.0) -> Solution:
    """The cheapest choice of strategies that meets the limit, with its bound; `time_limit` in seconds.

    Raises PlanError for a malformed problem, ConfigError for an unknown method, NoChoice (an InfeasiblePlan that carries
    `least_peak`) where no choice meets the limit.
    """
    began = time.perf_counter()
    methods: dict[str, Callable[[Problem, float], _Answer]] = {"auto": _auto, "ilp": _ilp, "search": _search}
    if method not in (*methods, "exhaustive"):
        names = ("auto", "ilp", "search", "exhaustive")
        raise ConfigError(
            refusal("solver", f"{method!r} is unknown{nearest(method, names)}", "a solver is one of those", names)
        )
    check(problem)
    if method == "exhaustive":
        return solve_exhaustively(problem)
    answer = methods[method](problem, began + time_limit)
    if answer.choice is None:
        raise _no_choice(problem, answer, time_limit)
    cost, peak = evaluate(problem, answer.choice)
    assert fits(peak, problem.limit), "a solver returned a choice above the limit"
    seconds = time.perf_counter() - began
    return Solution(answer.choice, cost, min(answer.bound, cost), answer.method, seconds, peak)


def _ilp(problem: Problem, deadline: float) -> _Answer:
    """Reductions and the integer program, nothing else."""
    f = factors(problem)
    try:
        reduce(f)
    except Wiped:
        return _Answer(None, math.inf, "ilp", True)
    small = core(f)
    outcome = solve_core(small, deadline - time.perf_counter())
    choice = None if outcome.choice is None else _restored(f, outcome.choice)
    return _Answer(choice, outcome.bound, "ilp", outcome.choice is None and outcome.finished)


def _search(problem: Problem, deadline: float) -> _Answer:
    """`auto` without the integer program."""
    return _auto(problem, deadline, Effort(), programs=False)


def _auto(problem: Problem, deadline: float, effort: Effort = _LIGHT, programs: bool = True) -> _Answer:
    relaxed = _eliminated(replace(problem, limit=None), 3e7)
    if relaxed is not None and relaxed.choice is None:
        return relaxed
    if relaxed is not None and relaxed.choice is not None and fits(evaluate(problem, relaxed.choice)[1], problem.limit):
        return relaxed
    f = factors(problem)
    try:
        reduce(f)
    except Wiped:
        return _Answer(None, math.inf, "elimination", True)
    found = search(core(f), effort, deadline)
    floor = -math.inf if relaxed is None else relaxed.bound
    first = _Answer(
        None if found.choice is None else _restored(f, found.choice),
        max(floor, found.dual.bound),
        "search",
        found.impossible,
    )
    return first if found.proven or found.impossible else _finish(f, found, first, deadline, programs)


def _eliminated(problem: Problem, work: float) -> _Answer | None:
    """The optimum by elimination alone, None where that takes more than `work` additions or memory binds."""
    f = factors(problem)
    try:
        reduce(f)
        if not eliminate_all(f, work, 2e6):
            return None
    except Wiped:
        return _Answer(None, math.inf, "elimination", True)
    return _Answer(restore(f, {}), f.constant, "elimination")


def _finish(f: Factors, found: Found, first: _Answer, deadline: float, programs: bool) -> _Answer:
    """Close the gap between a found choice and the bound, or tell how far it closed."""
    try:
        if found.choice is not None:
            prune(f, found)
        reduce(f)
        if eliminate_all(f, 3e8, 2e7):
            return _Answer(restore(f, {}), f.constant, "search and elimination")
    except Wiped:
        # What was left out costs more than the found choice, and nothing else is left: it is optimal, or there is none.
        cost = math.inf if found.choice is None else found.cost
        return replace(first, bound=cost, impossible=found.choice is None)
    if not programs:
        return first
    outcome = solve_core(core(f), deadline - time.perf_counter())
    bound = max(first.bound, min(outcome.bound, found.cost))
    if outcome.choice is None:
        return replace(first, bound=bound, method="search and ilp", impossible=outcome.finished and first.choice is None)
    choice = _restored(f, outcome.choice)
    return _Answer(choice, bound, "ilp") if outcome.finished else _Answer(choice, bound, "ilp, stopped")


def prune(f: Factors, found: Found) -> None:
    """Leave out of `f`, whose core was searched, what cannot be part of a choice cheaper than the one found."""
    small = core(f)
    spare = found.cost - found.dual.bound
    spare += 1e-9 * max(abs(found.cost), abs(found.dual.bound), _largest(small.costs))
    alone, pairs = excess(small, found.dual)
    for edge, over in zip(small.edges, pairs, strict=True):
        scope = (small.nodes[edge.a], small.nodes[edge.b])
        f.tables[scope] = np.where(over <= spare, f.tables[scope], np.inf)
    for node, over in zip(small.nodes, alone, strict=True):
        restrict(f, node, over <= spare)


def _largest(costs: tuple[Array, ...]) -> float:
    return max((float(np.abs(own).max()) for own in costs), default=0.0)


def _restored(f: Factors, choice: np.ndarray) -> tuple[int, ...]:
    return restore(f, dict(zip(core(f).nodes, choice.tolist(), strict=True)))


def _no_choice(problem: Problem, answer: _Answer, time_limit: float) -> NoChoice:
    """The error for an empty answer: how much memory would do, and what holds it."""
    least = least_peak(problem, time_limit)
    where = "partition problem"
    if least is None:
        rule = "some choice of strategies uses no forbidden strategy and no forbidden pair"
        return NoChoice(refusal(where, "every choice is forbidden", rule), problem.limit, None)
    peak, choice, proven = least
    if not answer.impossible and fits(peak, problem.limit):
        given = f"no choice that meets the limit was found in {time_limit:g} s, though there are some"
        fix = "give the solver more time, or raise the limit"
        return NoChoice(refusal(where, given, "peak memory <= limit", fix=fix), problem.limit, peak, False)
    assert problem.limit is not None
    missed = f"{peak - problem.limit:,.0f} above the limit"
    given = f"the limit is {problem.limit:,.0f}, and the least peak that any choice reaches is {peak:,.0f}, {missed}"
    if not proven:
        given = f"the limit is {problem.limit:,.0f}, and no choice that meets it was found; the least peak found is {peak:,.0f}"
    holders = sorted(((float(n.memory[s]), n.name) for n, s in zip(problem.nodes, choice, strict=bool(choice))), reverse=True)
    offenders = [f"{name} holds {held:,.0f} even then" for held, name in holders[:5] if held]
    fix = f"raise the limit to {peak:,.0f}, or use more ranks"
    return NoChoice(refusal(where, given, "peak memory <= limit", offenders, fix), problem.limit, peak, proven)
