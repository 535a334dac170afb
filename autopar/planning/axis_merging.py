"""Where a grid has too many axes, or a model too many conversions, to price all combinations: merged axes first.

What the plans of smaller grids do becomes what the plan of the whole grid is a mixture of
(`autopar.partitioner.formulation.merged_axes`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from autopar.errors import ConfigError
from autopar.ir.graph import Graph
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine
from autopar.ir.plan import Options
from autopar.partitioner.formulation import merged_axes
from autopar.partitioner.formulation.constraints import narrowed
from autopar.partitioner.formulation.merged_axes import Merged, Plan
from autopar.partitioner.formulation.priced_problem import build, decide
from autopar.partitioner.formulation.strategies import Described, describe
from autopar.partitioner.problem import NoChoice, Solution
from autopar.partitioner.solvers.solve import solve
from autopar.planning.pins import Wishes
from autopar.progress import Progress, timed

LEFT_OUT = "strategies left out"
"""What a method says where a plan is the best of some only."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is planned, and until when merged grids are begun."""

    graph: Graph
    grid: GridShape
    machine: Machine
    limit: float
    options: Options
    until: float


def opened(scene: Scene, wishes: Wishes, tell: Progress) -> tuple[Wishes, Mapping[str, Described]]:
    """The wishes, and what every call may do: all that is legal, or mixtures where that is too much."""
    graph, grid = scene.graph, scene.grid
    if wishes.asked.bases is None and not merged_axes.many(grid):
        described = describe(graph, grid, wishes.calls)
        if merged_axes.entries(graph, described) <= merged_axes.ENTRIES:
            return wishes, narrowed(described, wishes.asked, grid)
    if wishes.asked.bases is None:
        with timed(tell, "merged") as said:
            found, grids = merged_axes.plans(grid, lambda one: list(_plans(scene, wishes, one)), scene.until)
            names = [node.name for node in graph.nodes]
            bases = {name: tuple(dict.fromkeys(one[name] for one in found)) for name in names}
            wishes = replace(wishes, asked=replace(wishes.asked, bases=bases))
            said(f"{grids} grids of fewer axes; other {LEFT_OUT}")
    described = describe(graph, grid, wishes.calls, wishes.asked.bases)
    return wishes, narrowed(described, wishes.asked, grid)


def marked(solution: Solution, wishes: Wishes) -> Solution:
    """A solution that says so where strategies were left out: nothing is then proven of its cost."""
    if wishes.asked.bases is None:
        return solution
    return replace(solution, bound=0.0, method=f"{solution.method}, {LEFT_OUT}")


def _plans(scene: Scene, wishes: Wishes, one: Merged) -> Iterator[tuple[float, Plan]]:
    """The plan of a merged grid, and where it misses the limit, one that meets it. None where pins rule the merging out."""
    graph, axes = scene.graph, len(scene.grid.sizes)
    try:
        pins, asked = one.pins(wishes.calls), one.asked(wishes.asked)
        every = narrowed(describe(graph, one.grid, pins), asked, one.grid)
        described = merged_axes.spreadable(one, every, scene.grid)
        for limit in (None, scene.limit):
            built = build(
                graph, one.grid, scene.machine, limit=limit, optimizer=scene.options.optimizer, pins=pins,
                gathered=limit is not None, asked=asked, described=described,
            )  # fmt: skip
            left = max(scene.until - time.perf_counter(), 1.0)
            found = solve(built.problem, method=scene.options.solver, time_limit=left)
            strategies = decide(built, found.choice).strategies
            yield found.cost, {name: one.spread(strategies[name], described[name].call, axes) for name in strategies}
            if found.peak <= scene.limit:
                break
    except (ConfigError, NoChoice):
        return
