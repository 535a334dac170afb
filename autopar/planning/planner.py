"""The loop in which a plan is sought: what costs time or messages is offered only where the memory limit asks for it.

    for the shares of hidden gradient sums that `overlap` asks for:
        solve without a limit; parameters are stored as they are used, and no block is computed twice
        if this misses the limit, for every set of repeated blocks that may be computed again in backward (`recomputation`):
            for the limits that `memory_limit` asks for: solve, carry out on paper, and see what is held at the peak

With the limit, parameters may be stored in parts and gathered for use (ZeRO, FSDP). A set whose cost without any limit is not
below the best plan's cannot hold a better one, and is left out: the answer is the best of all sets. Of a graph with more than
`_MOST` kinds of repeated blocks the sets are the first, the first two, and so on.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from autopar.costmodel.op_timings import UNMEASURED, Timings
from autopar.costmodel.rank_views import alike
from autopar.errors import ConfigError, InfeasiblePlan
from autopar.ir.grid import GridShape
from autopar.ir.machine import linked
from autopar.ir.plan import Options
from autopar.ir.units import bytes_precisely
from autopar.partitioner.formulation.constraints import Constraints
from autopar.partitioner.formulation.priced_problem import PricedProblem, build, repeated, running_statistics
from autopar.partitioner.formulation.recomputation import key_of, offered
from autopar.partitioner.formulation.strategies import CallStrategies
from autopar.partitioner.problem import NoChoice, NotShorter
from autopar.partitioner.solvers.solve import solve
from autopar.planning import overlap
from autopar.planning.axis_merging import marked, opened
from autopar.planning.baselines import FREE
from autopar.planning.candidate import Candidate, candidate_of
from autopar.planning.infeasibility import Relaxed, no_plan, relaxations
from autopar.planning.memory_limit import Fitted, NextLimit, look_closer, next_limit
from autopar.planning.request import Request
from autopar.planning.unequal.cut_search import alternated
from autopar.progress import Progress, only_reminders, silent, timed

_MOST = 4
_FEW = 500_000  # prices of conversions: with more, blocks apart are not planned only to tell what tying costs

Blocks = frozenset[str]
"""Repeated blocks that are computed again in backward, by `key_of`."""


@dataclass(frozen=True, slots=True)
class _Search:
    """What all trials have in common. `until` is when the time limit ends."""

    request: Request
    constraints: Constraints
    calls: Mapping[str, CallStrategies]
    timings: Timings
    tell: Progress
    until: float
    share: float = 0.0  # of hidden gradient sums that is waited for
    known: dict[tuple[bool, Blocks], PricedProblem] = field(default_factory=dict)  # what has been priced

    def priced(self, gathered: bool, recomputed: Blocks) -> PricedProblem:
        """The problem where parameters may be gathered for use, and these blocks are computed again."""
        if (gathered, recomputed) not in self.known:
            self.known[gathered, recomputed] = self._built(gathered, recomputed)
        return overlap.priced(self.known[gathered, recomputed], self.share)

    def _built(self, gathered: bool, recomputed: Blocks) -> PricedProblem:
        with timed(self.tell, "priced") as said:
            built = self.build(gathered=gathered, recomputed=recomputed, limit=self.request.limit)
            count = sum(len(options) for options in built.options.values())
            parts = [f"{len(built.keys)} variables, {count} strategies"]
            parts += ["parameters gathered for use"] if gathered else []
            parts += [f"{repeat.prefix} computed again" for repeat in built.repeats if key_of(repeat) in recomputed]
            said(", ".join(parts))
        return built

    def build(
        self, *, gathered: bool, limit: float | None, recomputed: Blocks = frozenset(), untied: bool = False
    ) -> PricedProblem:
        """`autopar.partitioner.formulation.priced_problem.build` for this search."""
        request = self.request
        built = build(
            request.annotated, request.grid, request.machine, self.constraints, limit=limit,
            optimizer=request.options.optimizer, gathered=gathered, timings=self.timings, recomputed=recomputed,
            untied=untied, calls=self.calls, memories=request.memories,
        )  # fmt: skip
        built = replace(built, parts=request.options.parts)
        return repeated(built, request.microbatches) if request.microbatches > 1 else built

    def tried(self, built: PricedProblem, limit: float | None) -> Candidate | NoChoice:
        """The solution of a problem under a limit, carried out on paper."""
        limited = replace(built, problem=replace(built.problem, limit=limit))
        try:
            with timed(self.tell, "solved") as said:
                solution = solve(limited.problem, method=self.request.options.solver, time_limit=self.left())
                candidate = candidate_of(limited, marked(solution, self.constraints), self.request.options.optimizer)
                kept, peak = bytes_precisely(limit or 0.0), bytes_precisely(candidate.peak)
                under = "" if limit is None else f", {kept} kept at most, {peak} at the peak"
                said(f"{candidate.solution.method}, gap {candidate.solution.gap:.2%}{under}")
        except NoChoice as error:
            return error
        return candidate

    def left(self) -> float:
        """Seconds of the time limit that are left for a solver; a quarter of it in any case."""
        return max(self.until - time.perf_counter(), self.request.options.time_limit / 4)


def planned(request: Request, tell: Progress) -> Candidate:
    """The plan whose step is predicted shortest. Raises InfeasiblePlan where none that is tried meets the limit.

    Gradients of micro-batches are summed over ranks when the last one is done, behind nothing.
    """
    machine = linked(request.machine, request.grid.size)
    if request.microbatches > 1:
        machine = overlap.with_less_overlap(machine, 1.0)
    best = _planned(replace(request, machine=machine), tell)
    return replace(best, built=replace(best.built, machine=request.machine))


def _planned(request: Request, tell: Progress) -> Candidate:
    search = _opened(request, tell)
    if alike(request.machine, request.grid) or request.grid.cuts or request.stored:
        return _overlapping(search)

    def solve(grid: GridShape) -> Candidate:
        apart = replace(request, grid=grid, below=math.inf)  # other cuts may make a longer step the shortest
        return _overlapping(replace(search, request=apart, known={}))

    return alternated(request, solve, tell)


def _overlapping(search: _Search) -> Candidate:
    """The plan for one grid, gradient sums priced by what of them is waited for."""
    tell = search.tell
    tried: list[tuple[float, Candidate]] = []
    while (share := overlap.next_share(tried)) is not None:
        try:
            candidate = _within_limit(replace(search, share=share))
        except InfeasiblePlan:
            if not tried:
                raise
            break  # a matter of the solver's time, since prices do not change what fits
        if tried:
            change = 1 - candidate.seconds / overlap.shortest(tried).seconds
            length = f"{abs(change):.1%} {'shorter' if change >= 0 else 'longer'}"
            tell("repriced", f"gradient sums, {share:.0%} of what was to hide counted; the step is {length}", 0.0)
        tried.append((share, candidate))
    best = overlap.shortest(tried)
    if best.built.problem.limit is not None:
        return best
    return replace(best, built=replace(best.built, tied_loss=_tied_loss(search, best)))


def _opened(request: Request, tell: Progress) -> _Search:
    """What calls may do, and how long they take where that is measured."""
    began, time_limit = time.perf_counter(), request.options.time_limit
    with timed(only_reminders(tell), "priced"):
        constraints, calls = opened(request, began + time_limit / 2, tell)
    left = time_limit - (time.perf_counter() - began)
    timings = _measured(request, calls, tell) if request.options.measure else UNMEASURED
    return _Search(
        request, constraints, calls, timings, tell, left + time.perf_counter()
    )  # to measure takes none of it


def _within_limit(search: _Search) -> Candidate:
    """The cheapest plan that meets the limit, with gradient sums at one price and a bound on all plans."""
    request = search.request
    plain = search.priced(False, frozenset())
    sets = _sets(plain, request.options.recompute)
    if sets[0]:
        plain = search.priced(False, sets[0])
    # PricedProblem -> Candidate
    free = search.tried(plain, None)
    if isinstance(free, NoChoice):
        raise no_plan(request, None, _relaxed(search, sets)) from free
    if free.peak <= request.limit:
        return free
    if free.seconds >= request.below:
        raise NotShorter(free.seconds)
    # [set of blocks] -> [Fitted]
    best: Candidate | None = None
    missed: list[Fitted] = [Fitted(None, free)]
    bound = math.inf
    for blocks in sets:
        fitted = _fitted(search, blocks, math.inf if best is None else best.solution.cost)
        if fitted is not None and fitted.best is None:
            missed.append(fitted)
        elif fitted is not None and fitted.best is not None:
            bound = min(bound, fitted.best.solution.bound)
            best = fitted.best if best is None or fitted.best.solution.cost < best.solution.cost else best
    if best is not None:
        return replace(best, solution=replace(best.solution, bound=min(bound, best.solution.cost)))
    # [Fitted] -> Candidate
    closer = [_closer(search, fitted) for fitted in missed]
    within = [fitted.best for fitted in closer if fitted.best is not None]
    if within:
        return min(within, key=lambda candidate: candidate.solution.cost)
    least = min(closer, key=lambda fitted: fitted.least.peak)
    least = replace(least, hurried=any(fitted.hurried for fitted in closer))
    raise no_plan(request, least, _relaxed(search, sets))


def _fitted(search: _Search, blocks: Blocks, below: float = math.inf) -> Fitted | None:
    """The cheapest plan within the limit where these blocks are computed again; None where none costs less than `below`.

    A fixed plan stores parameters as it says. Raises NoChoice where there is no plan at any limit.
    """
    built = search.priced(search.request.options.plan == FREE, blocks)
    tried: dict[float | None, Candidate | NoChoice] = {}
    while isinstance(step := next_limit(tried, search.request.limit, below), NextLimit):
        tried[step.limit] = search.tried(built, step.limit)
    return step


def _closer(search: _Search, fitted: Fitted) -> Fitted:
    """The search that none fits, with a second look beside the least peak."""
    if not fitted.tried:
        return fitted
    tried = dict(fitted.tried)
    while isinstance(step := look_closer(tried, search.request.limit), NextLimit):
        tried[step.limit] = search.tried(fitted.least.built, step.limit)
    return step


def _relaxed(search: _Search, sets: tuple[Blocks, ...]) -> list[Relaxed]:
    """The least peaks without single pins, bans and the fixed plan: infinite where there is no plan all the same."""
    peaks: list[Relaxed] = []
    for what, options in relaxations(search.request.options):
        try:
            peaks.append(Relaxed(what, _least_peak(search, options, sets)))
        except (NoChoice, ConfigError):
            peaks.append(Relaxed(what, math.inf))
    return peaks


def _least_peak(search: _Search, options: Options, sets: tuple[Blocks, ...]) -> float:
    """The least peak found, or any within the limit, under other options. Raises NoChoice, ConfigError."""
    request = replace(search.request, options=options)
    constraints, calls = opened(request, search.until, silent)
    quiet = replace(search, request=request, constraints=constraints, calls=calls, tell=silent, known={})
    every = [_fitted(quiet, blocks) for blocks in dict.fromkeys((sets[0], sets[-1]))]
    fitted = [outcome for outcome in every if outcome is not None]
    if all(outcome.best is None for outcome in fitted):
        fitted = [_closer(quiet, outcome) for outcome in fitted]
    return min(outcome.least.peak for outcome in fitted)


def _tied_loss(search: _Search, best: Candidate) -> float | None:
    """By which share of its cost at most a plan without a limit would be cheaper if every block chose for itself; None where
    to find out takes long, blocks are computed again, or the letters are those of a position, whose cost is not the plan's."""
    if search.request.whole is not None:
        return None
    tied, cost = best.built, best.solution.cost
    if not tied.repeats or cost <= 0:
        return 0.0
    if search.constraints.bases is not None:
        return None
    prices = sum(edge.costs.size for edge in tied.problem.edges) * max(len(repeat.nodes) for repeat in tied.repeats)
    if prices > _FEW or tied.recomputation.repeats:
        return None
    apart = overlap.priced(search.build(gathered=False, limit=None, untied=True), tied.unhidden)
    return max(0.0, cost - solve(apart.problem, time_limit=search.left()).bound) / cost


def _sets(plain: PricedProblem, recompute: str) -> tuple[Blocks, ...]:
    """The sets of repeated blocks that may be computed again, the preferred first."""
    names = [key_of(repeat) for repeat in offered(plain.graph, plain.repeats, running_statistics(plain.graph))]
    if recompute == "always":
        return (frozenset(names),)
    if recompute == "never":
        return (frozenset(),)
    if len(names) > _MOST:
        return tuple(frozenset(names[:count]) for count in range(len(names) + 1))
    return tuple(frozenset(blocks) for size in range(len(names) + 1) for blocks in itertools.combinations(names, size))


def _measured(request: Request, calls: Mapping[str, CallStrategies], tell: Progress) -> Timings:
    """Seconds of every call under every strategy, timed on this machine or known from before."""
    from autopar.measure import measure

    with timed(tell, "measured") as said:

        def shown(done: int, count: int) -> None:
            said(f"{done} of {count} runs")

        timings, jobs, new = measure(request.graph, calls, request.grid, request.machine, shown)
        said(f"{jobs} distinct calls, {new} of them timed now")
    return timings
