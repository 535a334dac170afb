"""A schedule carried out on paper: when every action starts and ends, who is idle, what is held.

Given the lists of all positions, nothing is left to chance: every start is the latest of some ends, so the times are longest paths
in a graph of actions and messages, and come out the same in whichever order they are worked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from autopar.errors import PlanError, refusal
from autopar.ir.pipeline.schedule import KINDS, Action, ActionLists
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem

Codes = Sequence[Sequence[int]]
"""Lists of actions as numbers: (index of the kind * segments + segment) * micro-batches + micro-batch."""


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


def encode(problem: PipelineProblem, lists: Sequence[Sequence[Action]]) -> list[list[int]]:
    """Actions as numbers (see `Codes`)."""
    count, segments = problem.microbatches, problem.segments
    base = {kind: place * segments for place, kind in enumerate(KINDS)}
    return [[(base[kind] + segment) * count + microbatch for kind, segment, microbatch in each] for each in lists]


def decode(problem: PipelineProblem, codes: Codes) -> ActionLists:
    """The inverse of `encode`."""
    count, segments = problem.microbatches, problem.segments
    rows = [(kind, segment) for kind in KINDS for segment in range(segments)]
    return tuple(tuple(Action(*rows[code // count], code % count) for code in each) for each in codes)


def deferring(problem: PipelineProblem, codes: Codes) -> list[bool]:
    """Per segment, whether the schedule has W actions of it."""
    count, segments = problem.microbatches, problem.segments
    rows = {code // count for each in codes for code in each}
    return [2 * segments + segment in rows for segment in range(segments)]


def simulate(problem: PipelineProblem, lists: Sequence[Sequence[Action]]) -> Timeline:
    """Carries out lists that have every F and B once, and of each segment all W or none. Raises PlanError at a deadlock."""
    codes = encode(problem, lists)
    deferred = deferring(problem, codes)
    ends = run(problem, codes, deferred)
    if ends is None:
        rule = "some position waits for an action that comes later in another's list, which waits for it"
        raise PlanError(refusal("schedule", "it cannot be carried out", rule, fix="use one of autopar's schedules"))
    seconds = [problem.seconds(kind, s, deferred[s]) for kind in KINDS for s in range(problem.segments)]
    took = [[seconds[code // problem.microbatches] for code in each] for each in codes]
    makespan = finish(problem, ends)
    return Timeline(
        tuple(map(tuple, lists)),
        tuple(tuple(e - t for e, t in zip(*pair, strict=True)) for pair in zip(ends, took, strict=True)),
        tuple(map(tuple, ends)),
        makespan,
        tuple(makespan - sum(each) - problem.after(position) for position, each in enumerate(took)),
        tuple(peak_bytes(problem, each, deferred) for each in codes),
    )


def makespan(problem: PipelineProblem, lists: Sequence[Sequence[Action]]) -> float:
    """Seconds of the step, as `simulate` says them, alone; `inf` where the lists deadlock."""
    codes = encode(problem, lists)
    ends = run(problem, codes, deferring(problem, codes))
    return float("inf") if ends is None else finish(problem, ends)


def finish(problem: PipelineProblem, ends: Sequence[Sequence[float]]) -> float:
    """When the last position is done, its update included."""
    return max((each[-1] if each else 0.0) + problem.after(position) for position, each in enumerate(ends))


def peak_bytes(problem: PipelineProblem, codes: Sequence[int], deferred: Sequence[bool]) -> float:
    """The most bytes kept and held at once by a position that works through a list."""
    held = [problem.held[s] if deferred[s] else 0.0 for s in range(problem.segments)]
    pairs = list(zip(problem.kept, held, strict=True))
    change = [k for k, _ in pairs] + [h - k for k, h in pairs] + [-h for _, h in pairs]
    return max(accumulate((change[code // problem.microbatches] for code in codes), initial=0.0))


def run(problem: PipelineProblem, codes: Codes, deferred: Sequence[bool]) -> list[list[float]] | None:
    """When each action ends; None where some positions wait for each other."""
    count = problem.microbatches
    seconds, readers, missing_of = _dependencies(problem, deferred)
    missing = [number for number in missing_of for _ in range(count)]
    arrived = [0.0] * len(missing)
    channel_free = [0.0] * (problem.positions * problem.positions)
    ends: list[list[float]] = [[] for _ in codes]
    clock = [0.0] * len(codes)
    ready = list(range(len(codes)))
    while ready:
        position = ready.pop()
        own, done, now = codes[position], ends[position], clock[position]
        for index in range(len(done), len(own)):
            code = own[index]
            if missing[code]:
                break
            row, microbatch = divmod(code, count)
            now = (now if now > arrived[code] else arrived[code]) + seconds[row]
            done.append(now)
            for target, channel, lasts, there in readers[row]:
                other = target * count + microbatch
                at = now
                if channel >= 0:
                    at = channel_free[channel] = (now if now > channel_free[channel] else channel_free[channel]) + lasts
                if at > arrived[other]:
                    arrived[other] = at
                missing[other] -= 1
                if not missing[other] and there != position:
                    waits = codes[there]
                    if len(ends[there]) < len(waits) and waits[len(ends[there])] == other:
                        ready.append(there)
        clock[position] = now
    return ends if all(len(done) == len(own) for done, own in zip(ends, codes, strict=True)) else None


Reader = tuple[int, int, float, int]
"""Who waits for an action: row, channel (-1 on the same position), seconds of the message, position."""


def _dependencies(
    problem: PipelineProblem, deferred: Sequence[bool]
) -> tuple[list[float], list[list[Reader]], list[int]]:
    """Per row (kind and segment): seconds of an action, who waits for it, and for how many it waits itself."""
    segments, position = problem.segments, problem.position
    seconds = [problem.seconds(kind, s, deferred[s]) for kind in KINDS for s in range(segments)]
    readers: list[list[Reader]] = [[] for _ in seconds]
    missing = [0] * segments + [1] * (2 * segments)
    for s, at in enumerate(position):
        readers[s].append((segments + s, -1, 0.0, at))
        readers[segments + s].append((2 * segments + s, -1, 0.0, at))
    for edge in problem.edges:
        here, there = position[edge.source], position[edge.target]
        channels = (-1, -1) if here == there else (here * problem.positions + there, there * problem.positions + here)
        readers[edge.source].append((edge.target, channels[0], edge.forward, there))
        missing[edge.target] += 1
        if edge.gradient:
            readers[segments + edge.target].append((segments + edge.source, channels[1], edge.backward, here))
            missing[segments + edge.source] += 1
    return seconds, readers, missing
