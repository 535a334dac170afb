"""A schedule carried out on paper: when every action starts and ends, who is idle, what is held.

Given the lists of all positions, nothing is left to chance: every start is the latest of some ends, so the times are longest paths
in a graph of actions and messages, and come out the same in whichever order they are worked out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from autopar.errors import PlanError, refusal
from autopar.ir.pipeline.schedule import Action, ActionLists
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem
from autopar.partitioner.schedules.rows import Codes, Rows, deferring, encode, rows_of

ROUNDING = 1e-12
"""Sums of bytes that differ by this fraction of a limit are equal: they differ in the order of their terms only."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Seconds from the start of the step: `start[p][i]` and `end[p][i]` of the i-th action of position p.

    `makespan` is when the last position has done its last action and its update; `idle[p]` is the part of it in which position
    p does neither; `peak[p]` is the most bytes that it keeps and holds.
    """

    lists: ActionLists
    start: tuple[tuple[float, ...], ...]
    end: tuple[tuple[float, ...], ...]
    makespan: float
    idle: tuple[float, ...]
    peak: tuple[float, ...]


def simulate(problem: PipelineProblem, lists: Sequence[Sequence[Action]]) -> Timeline:
    """Carries out lists that have every F and B once, and of each segment all W or none. Raises PlanError at a deadlock."""
    codes = encode(problem, lists)
    rows = rows_of(problem, deferring(problem, codes))
    ends = run(rows, codes)
    if ends is None:
        rule = "some position waits for an action that comes later in another's list, which waits for it"
        raise PlanError(refusal("schedule", "it cannot be carried out", rule, fix="use one of autopar's schedules"))
    took = [[rows.seconds[code // problem.microbatches] for code in each] for each in codes]
    last = finish(problem, ends)
    return Timeline(
        tuple(map(tuple, lists)),
        tuple(tuple(e - t for e, t in zip(*pair, strict=True)) for pair in zip(ends, took, strict=True)),
        tuple(map(tuple, ends)),
        last,
        tuple(last - sum(each) - problem.after(position) for position, each in enumerate(took)),
        tuple(peak_bytes(rows, each) for each in codes),
    )


def makespan(problem: PipelineProblem, lists: Sequence[Sequence[Action]]) -> float:
    """Seconds of the step, as `simulate` says them, alone; `inf` where the lists deadlock."""
    codes = encode(problem, lists)
    ends = run(rows_of(problem, deferring(problem, codes)), codes)
    return math.inf if ends is None else finish(problem, ends)


def finish(problem: PipelineProblem, ends: Sequence[Sequence[float]]) -> float:
    """When the last position is done, its update included."""
    return max((each[-1] if each else 0.0) + problem.after(position) for position, each in enumerate(ends))


def peak_bytes(rows: Rows, codes: Sequence[int]) -> float:
    """The most bytes kept and held at once by a position that works through a list."""
    count, change = rows.problem.microbatches, rows.change
    return max(accumulate((change[code // count] for code in codes), initial=0.0))


def fits(rows: Rows, position: int, codes: Sequence[int]) -> bool:
    """Whether a position that works through a list keeps within its memory limit."""
    return rows.problem.limit is None or peak_bytes(rows, codes) <= rows.problem.limit[position] * (1 + ROUNDING)


def run(rows: Rows, codes: Codes) -> list[list[float]] | None:
    """When each action ends; None where some positions wait for each other."""
    count, readers, seconds = rows.problem.microbatches, rows.readers, rows.seconds
    missing = [len(waits) for waits in rows.before for _ in range(count)]
    arrived = [0.0] * len(missing)
    channel_free = [0.0] * rows.problem.positions**2
    ends: list[list[float]] = [[] for _ in codes]
    ready = list(range(len(codes)))
    while ready:
        position = ready.pop()
        own, done = codes[position], ends[position]
        now = done[-1] if done else 0.0
        for index in range(len(done), len(own)):
            code = own[index]
            if missing[code]:
                break
            row = code // count
            if arrived[code] > now:
                now = arrived[code]
            now += seconds[row]
            done.append(now)
            for target, channel, lasts, there in readers[row]:
                other = target * count + code % count
                at = now
                if channel >= 0:
                    at = channel_free[channel] = (now if now > channel_free[channel] else channel_free[channel]) + lasts
                if at > arrived[other]:
                    arrived[other] = at
                missing[other] -= 1
                if there != position and not missing[other]:
                    waits, reached = codes[there], len(ends[there])
                    if reached < len(waits) and waits[reached] == other:
                        ready.append(there)
    return ends if all(len(done) == len(own) for done, own in zip(ends, codes, strict=True)) else None
