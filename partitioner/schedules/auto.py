"""The best schedule that is found for a pipeline: list scheduling by several priorities, and the named schedules.

1. with and without deferred weight gradients, every priority of `priorities` is tried;
2. so is every named schedule that is defined and fits the memory, so that none of them is ever faster than what is found;
3. the best is improved by moves along its critical path (`moves`), till it meets the lower bound or the tries are used up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autopar.errors import ConfigError, InfeasiblePlan, refusal
from autopar.ir.pipeline.schedule import ActionLists
from autopar.partitioner.schedules.list_scheduling import Priority, has_room, list_schedule
from autopar.partitioner.schedules.named import NAMED
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem
from autopar.partitioner.schedules.rows import Rows, decode, deferring, encode, rows_of
from autopar.partitioner.schedules.simulate import finish, peak_bytes, run

_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A schedule with its makespan in seconds."""

    makespan: float
    rows: Rows
    codes: list[list[int]]


def auto(problem: PipelineProblem) -> ActionLists:
    """The best schedule found. Raises InfeasiblePlan where some position has no room for a micro-batch of its segments."""
    found = min(candidates(problem), key=lambda each: each.makespan, default=None)
    if found is None:
        raise InfeasiblePlan(_no_room(problem))
    return decode(problem, found.codes)


def candidates(problem: PipelineProblem) -> Iterator[Found]:
    """Schedules that fit the memory, those without deferred weight gradients first."""
    for name in NAMED:
        try:
            codes = encode(problem, NAMED[name](problem))
        except ConfigError:
            continue
        rows = rows_of(problem, deferring(problem, codes))
        if fits(rows, codes):
            yield _found(rows, codes)
    every = [False] * problem.segments, [seconds > 0 for seconds in problem.weight]
    for deferred in every if any(every[1]) else every[:1]:
        rows = rows_of(problem, deferred)
        if has_room(rows):
            yield from (_found(rows, list_schedule(rows, priority)) for priority in priorities(rows))


def fits(rows: Rows, codes: list[list[int]]) -> bool:
    """Whether a schedule keeps within the memory limits."""
    problem = rows.problem
    return problem.limit is None or all(
        peak_bytes(rows, each) <= problem.most(position) * (1 + _ROUNDING) for position, each in enumerate(codes)
    )


def priorities(rows: Rows) -> Iterator[Priority]:
    """The orders that are tried: urgent is what has the longest way to the end, micro-batches being due one period apart."""
    way = longest_ways(rows)
    work = [sum(rows.seconds[row] for row in own) for own in rows.own]
    segments, most = rows.problem.segments, sum(way)
    backward_first = [way[row] + (most, -most)[row >= 2 * segments] * (row >= segments) for row in range(3 * segments)]
    for patience in (0.0, 0.5):
        for share in (0.5, 1.0, 0.0, 2.0):
            yield Priority(share * max(work), tuple(way), patience)
        yield Priority(max(work), tuple(backward_first), patience)


def longest_ways(rows: Rows) -> list[float]:
    """Per row: seconds from the start of an action to the end of the step, were there but this one micro-batch."""
    ways = [0.0] * len(rows.seconds)
    for row in reversed(rows.topological):
        update = rows.problem.after(rows.problem.position[row % rows.problem.segments])
        ways[row] = rows.seconds[row] + max(
            [update, *(lasts + ways[other] for other, _, lasts, _ in rows.readers[row])]
        )
    return ways


def _found(rows: Rows, codes: list[list[int]]) -> Found:
    ends = run(rows, codes)
    assert ends is not None, "a schedule of our own deadlocks"
    return Found(finish(rows.problem, ends), rows, codes)


def _no_room(problem: PipelineProblem) -> str:
    needs = [0.0] * problem.positions
    for position, kept in zip(problem.position, problem.kept, strict=True):
        needs[position] += kept
    offenders = [
        f"position {position}: {need:.0f} bytes, the limit is {problem.most(position):.0f}"
        for position, need in enumerate(needs)
        if need > problem.most(position)
    ]
    rule = "every position has room for what one micro-batch keeps in all its segments"
    return refusal("schedule", "no order fits the memory", rule, offenders, "use more micro-batches, or more positions")
