"""Where a grid has too many axes, or a model too many conversions, to price all combinations: merged axes first.

What the plans of smaller grids do becomes what the plan of the whole grid is a mixture of
(`autopar.partitioner.formulation.merged_axes`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from autopar.errors import ConfigError
from autopar.partitioner.formulation import merged_axes
from autopar.partitioner.formulation.constraints import Constraints, constrained, narrowed
from autopar.partitioner.formulation.merged_axes import Merged, Plan
from autopar.partitioner.formulation.priced_problem import build, decide
from autopar.partitioner.formulation.strategies import CallStrategies, strategies_of
from autopar.partitioner.problem import NoChoice, Solution
from autopar.partitioner.solvers.solve import solve
from autopar.planning.request import Request
from autopar.progress import Progress, timed

LEFT_OUT = "strategies left out"
"""What a method says where a plan is the best of some only."""


def opened(request: Request, until: float, tell: Progress) -> tuple[Constraints, Mapping[str, CallStrategies]]:
    """The constraints, and what every call may do: all that is legal, or mixtures where that is too much.

    No merged grid is begun after `until`. Raises ConfigError where constraints exclude each other.
    """
    constraints, grid = request.constraints(), request.grid
    if constraints.bases is None and not merged_axes.many(grid):
        calls = strategies_of(request.annotated, grid, constraints.pins)
        if merged_axes.entries(request.graph, calls) <= merged_axes.ENTRIES:
            return constraints, narrowed(calls, constraints, grid)
    if constraints.bases is None:
        with timed(tell, "merged") as said:
            plans, grids = _merged_plans(request, constraints, until)
            names = [node.name for node in request.graph.nodes]
            bases = {name: tuple(dict.fromkeys(plan[name] for plan in plans)) for name in names}
            constraints = replace(constraints, bases=bases)
            said(f"{grids} grids of fewer axes; other {LEFT_OUT}")
    return constraints, constrained(request.annotated, grid, constraints)


def marked(solution: Solution, constraints: Constraints) -> Solution:
    """A solution that says so where strategies were left out: nothing is then proven of its cost."""
    if constraints.bases is None:
        return solution
    return replace(solution, bound=0.0, method=f"{solution.method}, {LEFT_OUT}")


def _merged_plans(request: Request, constraints: Constraints, until: float) -> tuple[list[Plan], int]:
    """The plans of merged grids, the cheapest first, and how many of these grids were planned: the first one always."""
    plans: list[tuple[float, Plan]] = []
    planned = 0
    for merged in merged_axes.merges(request.grid):
        if planned and time.perf_counter() > until:
            break
        planned += 1
        plans += _plans(request, constraints, merged, until)
    return [plan for _, plan in sorted(plans, key=lambda pair: pair[0])], planned


def _plans(request: Request, constraints: Constraints, merged: Merged, until: float) -> Iterator[tuple[float, Plan]]:
    """The plan of a merged grid, and where it misses the limit, one that meets it. None where pins rule the merging out."""
    annotated, axes = request.annotated, len(request.grid.sizes)
    try:
        own = merged.constraints(constraints)
        calls = merged_axes.spreadable(merged, constrained(annotated, merged.grid, own), request.grid)
        for limit in (None, request.limit):
            built = build(
                annotated, merged.grid, request.machine, own, limit=limit, optimizer=request.options.optimizer,
                gathered=limit is not None, calls=calls,
            )  # fmt: skip
            left = max(until - time.perf_counter(), 1.0)
            solution = solve(built.problem, method=request.options.solver, time_limit=left)
            strategies = decide(built, solution.choice).strategies
            yield solution.cost, {name: merged.spread(strategies[name], calls[name].call, axes) for name in strategies}
            if solution.peak <= request.limit:
                break
    except (ConfigError, NoChoice):
        return
