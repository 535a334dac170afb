"""The rounds in which a plan is sought: what costs time or messages is offered only where the memory limit asks for it.

    1. no limit; parameters are stored as they are used, and no block is computed twice. If this meets the limit, it is the plan
    2. with the limit (`autopar.planning.memory_limit`); parameters may be stored in parts and gathered for use (ZeRO, FSDP),
    and every set of
       repeated blocks may be computed again in backward (`partitioner.again`)

A set whose cost without any limit is not below the best plan's cannot hold a better one, and is left out: the answer is the best
of all sets. Of a graph with more than `_MOST` kinds of repeated blocks the sets are the first, the first two, and so on.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from autopar.costmodel.op_timings import UNMEASURED, Timings
from autopar.ir.graph import Graph
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine
from autopar.ir.plan import Options
from autopar.ir.units import bytes_precisely
from autopar.partitioner.formulation.priced_problem import Built, build, running_statistics
from autopar.partitioner.formulation.recomputation import key_of, offered
from autopar.partitioner.formulation.strategies import Described
from autopar.partitioner.problem import NoChoice, Solution
from autopar.partitioner.solvers.solve import solve
from autopar.planning import overlap
from autopar.planning.axis_merging import Scene, marked, opened
from autopar.planning.baselines import FREE
from autopar.planning.candidate import Outcome, outcome
from autopar.planning.infeasibility import no_plan
from autopar.planning.memory_limit import Fitted, fitted
from autopar.planning.pins import Wishes
from autopar.progress import Progress, only_reminders, silent, timed

_MOST = 4
_FEW = 500_000  # prices of conversions: with more, blocks apart are not planned only to tell what tying costs


@dataclass(frozen=True, slots=True)
class _Search:
    """What all rounds have in common."""

    graph: Graph
    grid: GridShape
    machine: Machine
    limit: float
    options: Options
    wishes_of: Callable[[Options], Wishes]
    wishes: Wishes
    timings: Timings
    tell: Progress
    described: Mapping[str, Described]
    until: float  # when the time limit ends
    unhidden: float = 0.0  # the share of hidden gradient sums that is waited for
    known: dict[tuple[bool, frozenset[str]], Built] = field(default_factory=dict)  # what has been priced

    def priced(self, gathered: bool, recomputed: frozenset[str]) -> Built:
        if (gathered, recomputed) not in self.known:
            self.known[gathered, recomputed] = self.built(gathered, recomputed)
        return overlap.priced(self.known[gathered, recomputed], self.unhidden)

    def built(self, gathered: bool, recomputed: frozenset[str]) -> Built:
        with timed(self.tell, "priced") as said:
            built = build(
                self.graph, self.grid, self.machine, limit=self.limit, optimizer=self.options.optimizer,
                pins=self.wishes.calls, gathered=gathered, timings=self.timings, asked=self.wishes.asked,
                recomputed=recomputed, described=self.described,
            )  # fmt: skip
            count = sum(len(options) for options in built.options.values())
            parts = [f"{len(built.keys)} variables, {count} strategies"]
            parts += ["parameters gathered for use"] if gathered else []
            parts += [f"{one.prefix} computed again" for one in built.repeats if key_of(one) in recomputed]
            said(", ".join(parts))
        return built

    def carried(self, built: Built) -> Outcome:
        """The solution of a problem, carried out on paper. Raises NoChoice."""
        with timed(self.tell, "solved") as said:
            solution = solve(built.problem, method=self.options.solver, time_limit=self.left())
            solution = marked(solution, self.wishes)
            found = outcome(built, solution, self.options.optimizer)
            limit = built.problem.limit
            under = (
                ""
                if limit is None
                else f", {bytes_precisely(limit)} kept at most, {bytes_precisely(found.held.peak)} at the peak"
            )
            said(f"{solution.method}, gap {solution.gap:.2%}{under}")
        return found

    def left(self) -> float:
        """Seconds of the time limit that are left for a solver; a quarter of it in any case."""
        return max(self.until - time.perf_counter(), self.options.time_limit / 4)

    def fitted(self, recomputed: frozenset[str], below: float = math.inf) -> Fitted | None:
        """The search for a peak within the limit; a fixed plan stores parameters as it says."""
        built = self.priced(self.options.plan == FREE, recomputed)
        return fitted(built, self.limit, self.carried, below)

    def least(self, options: Options, sets: tuple[frozenset[str], ...]) -> float:
        """The least peak found under other pins, bans or another fixed plan. Raises NoChoice, ConfigError."""
        scene = Scene(self.graph, self.grid, self.machine, self.limit, options, self.until)
        wishes, described = opened(scene, self.wishes_of(options), silent)
        quiet = replace(self, options=options, wishes=wishes, tell=silent, described=described, known={})
        found = [one for one in map(quiet.fitted, dict.fromkeys((sets[0], sets[-1]))) if one is not None]
        if all(one.best is None for one in found):
            found = [one if one.closer is None else one.closer() for one in found]
        return min(one.least.held.peak for one in found)


def planned(
    graph: Graph,
    grid: GridShape,
    machine: Machine,
    limit: float,
    options: Options,
    wishes_of: Callable[[Options], Wishes],
    tell: Progress,
) -> Outcome:
    """Price and solve, in rounds; `wishes_of` says what pins, bans and a fixed plan ask for.

    Raises InfeasiblePlan where no plan of any round meets the limit.
    """
    began = time.perf_counter()
    scene = Scene(graph, grid, machine, limit, options, began + options.time_limit / 2)
    with timed(only_reminders(tell), "priced"):
        wishes, described = opened(scene, wishes_of(options), tell)
    until = options.time_limit - (time.perf_counter() - began)
    timings = _measured(graph, described, grid, machine, tell) if options.measure else UNMEASURED
    until += time.perf_counter()  # to measure is no part of it
    search = _Search(graph, grid, machine, limit, options, wishes_of, wishes, timings, tell, described, until)

    def told(share: float, change: float) -> None:
        what = f"gradient sums, {share:.0%} of what was to hide counted"
        tell("repriced", f"{what}; the step is {abs(change):.1%} {'shorter' if change >= 0 else 'longer'}", 0.0)

    found = overlap.shortest(lambda share: _sought(replace(search, unhidden=share)), told)
    if found.built.problem.limit is not None:
        return found
    return replace(found, built=replace(found.built, tied_loss=_tied_loss(search, found.built, found.solution)))


def _sought(search: _Search) -> Outcome:
    """The rounds, with gradient sums at one price."""
    plain = search.priced(False, frozenset())
    sets = _sets(plain, search.options.recompute)
    if sets[0]:
        plain = search.priced(False, sets[0])
    try:
        free = search.carried(replace(plain, problem=replace(plain.problem, limit=None)))
    except NoChoice as error:
        given = (search.graph, search.grid, search.limit, None, search.options)
        raise no_plan(*given, lambda asked: search.least(asked, sets)) from error
    return free if free.held.peak <= search.limit else _cheapest(search, sets, free)


def _tied_loss(search: _Search, tied: Built, solution: Solution) -> float | None:
    """By which share of its cost a plan without a limit would be cheaper, at most, if every block chose for itself.

    None where to find out takes long, or blocks are computed again.
    """
    if not tied.repeats or solution.cost <= 0:
        return 0.0
    if search.wishes.asked.bases is not None:
        return None
    prices = sum(edge.costs.size for edge in tied.problem.edges) * max(len(one.nodes) for one in tied.repeats)
    if prices > _FEW or tied.again.repeats:
        return None
    apart = build(
        search.graph, search.grid, search.machine, limit=None, optimizer=search.options.optimizer,
        pins=search.wishes.calls, gathered=False, timings=search.timings, asked=search.wishes.asked,
        untied=True, described=search.described,
    )  # fmt: skip
    apart = overlap.priced(apart, tied.unhidden)
    return max(0.0, solution.cost - solve(apart.problem, time_limit=search.left()).bound) / solution.cost


def _sets(plain: Built, recompute: str) -> tuple[frozenset[str], ...]:
    """The sets of repeated blocks that may be computed again, the preferred first."""
    names = [key_of(one) for one in offered(plain.graph, plain.repeats, running_statistics(plain.graph))]
    if recompute == "always":
        return (frozenset(names),)
    if recompute == "never":
        return (frozenset(),)
    if len(names) > _MOST:
        return tuple(frozenset(names[:count]) for count in range(len(names) + 1))
    return tuple(frozenset(one) for size in range(len(names) + 1) for one in itertools.combinations(names, size))


def _cheapest(search: _Search, sets: tuple[frozenset[str], ...], free: Outcome) -> Outcome:
    """The cheapest plan of all sets, with a bound on all of them; `free`, which does not fit, is the plan without a limit."""
    best: Outcome | None = None
    missed: list[Fitted] = []
    bound = math.inf
    for one in sets:
        found = search.fitted(one, math.inf if best is None else best.solution.cost)
        if found is None:
            continue
        if found.best is None:
            missed.append(found)
            continue
        bound = min(bound, found.best.solution.bound)
        best = found.best if best is None or found.best.solution.cost < best.solution.cost else best
    if best is None:
        return _closest(search, sets, [Fitted(None, free), *missed])
    return replace(best, solution=replace(best.solution, bound=min(bound, best.solution.cost)))


def _closest(search: _Search, sets: tuple[frozenset[str], ...], missed: list[Fitted]) -> Outcome:
    """A plan beside those that miss the limit by least, or why there is none."""
    closer = [one if one.closer is None else one.closer() for one in missed]
    least = min(closer, key=lambda one: one.least.held.peak)
    best = min((one.best for one in closer if one.best is not None), key=lambda one: one.solution.cost, default=None)
    if best is None:
        least = replace(least, hurried=any(one.hurried for one in closer))
        given = (search.graph, search.grid, search.limit, least, search.options)
        raise no_plan(*given, lambda asked: search.least(asked, sets))
    return best


def _measured(
    graph: Graph, described: Mapping[str, Described], grid: GridShape, machine: Machine, tell: Progress
) -> Timings:
    """Seconds of every call under every strategy, timed on this machine or known from before."""
    from autopar.measure import measure

    with timed(tell, "measured") as said:

        def shown(done: int, count: int) -> None:
            said(f"{done} of {count} runs")

        timings, jobs, new = measure(graph, described, grid, machine, shown)
        said(f"{jobs} distinct calls, {new} of them timed now")
    return timings
