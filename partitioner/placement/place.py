"""Where every call goes: the entry, and what a placement says of itself beside the baselines."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from autopar.errors import ConfigError, InfeasiblePlan, refusal
from autopar.ir.pipeline.schedule import ActionLists
from autopar.partitioner.placement.assignment import Assignment, cut_bytes, is_legal, parameter_bytes, pipeline
from autopar.partitioner.placement.baselines import baselines
from autopar.partitioner.placement.bounds import placement_bound
from autopar.partitioner.placement.coarsening import blocks_of, expanded, merged
from autopar.partitioner.placement.exhaustive import exhaustive
from autopar.partitioner.placement.judging import Judge
from autopar.partitioner.placement.problem import WHERE, PlacementProblem, check
from autopar.partitioner.placement.refinement import Refinement
from autopar.partitioner.placement.starting_points import chain_assignments, starting_points
from autopar.partitioner.problem import NotShorter, relative_gap
from autopar.partitioner.schedules.auto import forecast
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem

_BLOCKS = 160  # calls that are placed one by one; of more, blocks are placed first
_PER_CALL, _MOST = 100, 1_000_000  # estimates per call, and the calls in all estimates together
_SWEPT = 64  # calls above which starts are swept before moves are compared
_FINE = 300  # estimates with all calls of a large problem
_ACTIONS = 60_000  # of all schedules that are simulated to choose between assignments
_KEPT, _KEPT_WAYS = 6, 2  # chain cuts that a search begins with, and ways to cut the calls of a large problem
_JUDGED, _TRIED = 60, 1000  # assignments that are simulated, and looked at
_SEARCHED = 24  # calls up to which a search of all assignments is begun
_FORECAST, _SOUGHT = 100, 16  # assignments of which one schedule is simulated, and those of which more are sought
_FORECAST_ACTIONS, _SOUGHT_ACTIONS = 150_000, 15_000  # and of all these together
_BEATEN = 1.1  # one schedule of an assignment over the best one that is found, or more: seldom
_EQUAL = 1e-9
_DEAR, _NEAR = 4000, 1.5  # micro-batches of segments that make a long schedule; estimates that are near the best
ONE_STAGE = ("1f1b", "zb")
"""Schedules that are defined where every position has one segment."""


@dataclass(frozen=True, slots=True)
class Placement:
    """An assignment with its schedule, and what it costs.

    `makespan` and `bound` in seconds of a step: in the simulation of this schedule no placement is faster than the bound;
    `cut_bytes` between positions in a step; per position `seconds` of work in a step, its update included, and `memory` in
    bytes: parameters, and the peak of what is in flight.
    """

    assignment: Assignment
    pipeline: PipelineProblem
    schedule: ActionLists
    makespan: float
    bound: float
    cut_bytes: float
    seconds: tuple[float, ...]
    memory: tuple[float, ...]

    @property
    def gap(self) -> float:
        """How far the makespan may be above the best, as a share of it."""
        return relative_gap(self.makespan, self.bound)

    @property
    def imbalance(self) -> float:
        """The largest seconds of a position over their mean."""
        mean = sum(self.seconds) / len(self.seconds)
        return max(self.seconds) / mean if mean else 1.0


def place(
    problem: PlacementProblem,
    *,
    segments_per_position: int = 1,
    schedule: str = "auto",
    time_limit: float = 60.0,
    tries: int = 500,
    below: float = math.inf,
) -> Placement:
    """The fastest placement that is found, by simulated makespan.

    After the heuristics, small problems are searched exhaustively, with so many `tries`: that raises the bound, to the makespan
    where it comes to its end. The answer depends on the input alone unless `time_limit` (seconds) ends the search. Raises
    ConfigError for what cannot be placed as asked, InfeasiblePlan where memory does not suffice, and NotShorter where no
    makespan is seen to be `below` so many seconds.
    """
    most = 1 if schedule in ONE_STAGE else segments_per_position
    check(problem, most)
    deadline = time.perf_counter() + time_limit
    judge = Judge(problem, schedule)
    candidates = _candidates(problem, most, deadline)
    if candidates and (least := min(seconds for _, seconds in candidates)) >= below:
        raise NotShorter(least)
    best = _fastest(candidates, judge, deadline, below)
    if best is None:
        raise _nothing_fits(problem, judge)
    bound = placement_bound(problem)
    if tries and len(problem.calls) <= _SEARCHED and time.perf_counter() < deadline:
        optimum = exhaustive(problem, most, judge, tries, best)
        assert optimum.assignment is not None, "what was known is lost"
        best, bound = optimum.assignment, max(bound, optimum.bound)
    return described(problem, best, judge, bound)


def _fastest(
    candidates: list[tuple[Assignment, float]], judge: Judge, deadline: float, below: float
) -> Assignment | None:
    """The assignment with the least simulated makespan; of those that are as fast, the one that sends fewest bytes.

    Estimates are least makespans, or nearly: the first one that is above what has been found ends the search.
    """
    best: Assignment | None = None
    least = fewest = math.inf
    if judge.schedule == "auto":
        candidates = _promising(judge, candidates, deadline, below)
    for tried, (assignment, seconds) in enumerate(candidates):
        enough = judge.actions > _ACTIONS or judge.simulated > _JUDGED or time.perf_counter() > deadline
        if (enough and best is not None) or seconds > least * (1 + _EQUAL) or tried > _TRIED:
            break
        sent = cut_bytes(judge.problem, assignment)
        most = least * (1 + _EQUAL if sent < fewest else 1 - _EQUAL)
        if seconds > most or judge.bound(assignment) > most or judge.seconds(assignment) > most:
            continue
        if judge.timeline(assignment) is not None:
            best, least, fewest = assignment, min(least, judge.seconds(assignment)), sent
    return best


def _promising(
    judge: Judge, candidates: list[tuple[Assignment, float]], deadline: float, below: float
) -> list[tuple[Assignment, float]]:
    """Those candidates, in their order, whose schedules are worth being sought, where it would take too long to seek them all.

    One schedule of each of the first ones is simulated, and the best few are taken. Raises NotShorter where the best of these
    schedules is so much longer than `below` that no other makes up for it.
    """
    actions = 2 * judge.problem.microbatches * len(candidates[0][0].position) if candidates else 0
    if len(candidates) * actions <= _ACTIONS:
        return candidates
    seconds: dict[Assignment, float] = {}
    for assignment, _ in candidates[: min(_FORECAST, max(_SOUGHT, _FORECAST_ACTIONS // actions))]:
        seconds[assignment] = forecast(pipeline(judge.problem, assignment))
        if time.perf_counter() > deadline:
            break
    if below * _BEATEN < min(seconds.values()) < math.inf:
        raise NotShorter(min(seconds.values()) / _BEATEN)
    sought = min(_SOUGHT, 1 + _SOUGHT_ACTIONS // actions)
    best = {*sorted(seconds, key=seconds.__getitem__)[:sought]}
    return [each for each in candidates if each[0] in best]


def _candidates(problem: PlacementProblem, most: int, deadline: float) -> list[tuple[Assignment, float]]:
    """The assignments that are worth a simulation and their estimates, the best first.

    Where schedules are long, the best of those with the fewest segments stands before them: its schedule is found soonest, and
    comes nearest to the estimate.
    """
    search = _coarse_to_fine(problem, most, deadline)
    legal = [d for d in sorted(search.seen, key=search.cost_of) if is_legal(problem, d, most)]
    if legal and problem.microbatches * len(legal[0].position) > _DEAR:
        near = [each for each in legal if search.cost_of(each) <= _NEAR * search.cost_of(legal[0])]
        legal.insert(0, min(near, key=lambda each: (len(each.position), search.cost_of(each))))
    return [(each, search.cost_of(each)) for each in dict.fromkeys(legal)]


def _coarse_to_fine(problem: PlacementProblem, most: int, deadline: float) -> Refinement:
    """Blocks of calls placed first where calls are many, then the calls at the edges of segments."""
    few = len(problem.calls) <= _BLOCKS
    blocks = [] if few else blocks_of(problem, max(_BLOCKS, 3 * most * len(problem.positions)))
    small = problem if few else merged(problem, blocks)
    count = len(small.calls)
    search = Refinement(small, most, min(_PER_CALL * count, _MOST // count), deadline)
    starts, ways = starting_points(small, most, _KEPT)
    search.improve([search.sweep(start) for start in starts] if count > _SWEPT else starts)
    if few:
        return search
    fine = Refinement(problem, most, _FINE, deadline)
    order = [call for block in blocks for call in block]
    single = [way for way in ways if way.rounds == 1]
    for _, assignment in chain_assignments(problem, order, dict.fromkeys(ways[:_KEPT_WAYS] + single[:_KEPT_WAYS])):
        fine.cost_of(assignment)
    for assignment in sorted(search.seen, key=search.cost_of)[:3]:
        fine.cost_of(expanded(problem, blocks, assignment))
    fine.sweep(fine.best())
    return fine


def described(problem: PlacementProblem, assignment: Assignment, judge: Judge, bound: float) -> Placement:
    """What an assignment costs, under the schedule of a judge that has one for it, beside a bound of all placements."""
    task, timeline = pipeline(problem, assignment), judge.timeline(assignment)
    assert timeline is not None
    seconds = [task.after(position) for position in range(task.positions)]
    for segment, position in enumerate(task.position):
        seconds[position] += problem.microbatches * (task.forward[segment] + task.backward[segment])
    held = parameter_bytes(problem, assignment)
    return Placement(
        assignment,
        task,
        timeline.lists,
        timeline.makespan,
        min(bound, timeline.makespan),
        cut_bytes(problem, assignment),
        tuple(seconds),
        tuple(size + peak for size, peak in zip(held, timeline.peak, strict=True)),
    )


def compare(problem: PlacementProblem, schedule: str = "auto") -> dict[str, Placement | None]:
    """The baselines judged in the same way; None for one that pins, bans or memory forbid."""
    judge, bound = Judge(problem, schedule), placement_bound(problem)
    found: dict[str, Placement | None] = {}
    for name, assignment in baselines(problem).items():
        legal = is_legal(problem, assignment, len(problem.calls)) and judge.timeline(assignment) is not None
        found[name] = described(problem, assignment, judge, bound) if legal else None
    return found


def _nothing_fits(problem: PlacementProblem, judge: Judge) -> ConfigError | InfeasiblePlan:
    """Why no assignment was left: the schedule's refusal, or memory."""
    if isinstance(judge.refused, ConfigError):
        return judge.refused
    rule = "parameters, and what the micro-batches in flight save for backward, fit the memory of their position"
    given = f"no placement of {len(problem.calls)} calls on {len(problem.positions)} positions was found that can run"
    fix = "more memory, more --microbatches, more --segments, or fewer pins and bans"
    return InfeasiblePlan(refusal(WHERE, given, rule, fix=fix))
