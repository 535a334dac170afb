"""A time that no schedule beats, where segments lie on given positions.

Each action has a *head*, before which it cannot start, and a *tail*, the least time from its end to the end of the step. Both are
longest paths from action to action, in which the micro-batches of a row follow each other (`rows` says why that may be
assumed), and in which memory counts: an F waits for the B that makes room for it. With heads and tails given, the best that a
position or a channel could do by itself is known: Jackson's preemptive schedule, which always works on what is ready and has
the longest tail (Carlier, "The one-machine sequencing problem", 1982). The bound is the worst of them all.

Every weight gradient counts as deferred: a W right after its B is a whole backward, so that nothing is ruled out.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from dataclasses import dataclass

from autopar.partitioner.schedules.pipeline_problem import PipelineProblem
from autopar.partitioner.schedules.rows import Rows, rows_of

_ROUNDING = 1e-9  # of a limit

Waits = list[list[tuple[int, int]]]
"""Per row, what its actions come after: a row, and by how many micro-batches earlier."""


@dataclass(frozen=True, slots=True, eq=False)
class _Machines:
    """Positions, then channels, and what each does: the rows of a pipeline, then those of its messages.

    `order` is one in which each row comes after all that it waits for of the same micro-batch.
    """

    rows: list[list[int]]
    seconds: list[float]
    before: Waits
    order: list[int]


def lower_bound(problem: PipelineProblem) -> float:
    """Seconds that every schedule takes at least; `inf` where none fits the memory."""
    rows = rows_of(problem, [seconds > 0 for seconds in problem.weight])
    machines, count = _machines(rows), problem.microbatches
    for first, last, number in _room(rows):
        if number < 1:
            return math.inf
        machines.before[first].append((problem.segments + last, number))
    after: Waits = [[] for _ in machines.before]
    for row, waits in enumerate(machines.before):
        for other, distance in waits:
            after[other].append((row, distance))
    ends = [0.0] * len(after)
    for row in rows.topological:
        ends[row] = problem.after(problem.position[row % problem.segments])
    heads = _longest(machines, machines.before, machines.order, [0.0] * len(after), count)
    tails = _longest(machines, after, machines.order[::-1], ends, count)
    idle = max(problem.after(position) for position in range(problem.positions))
    return max([idle, *(_one_machine(_jobs(machines, own, heads, tails)) for own in machines.rows)])


def _machines(rows: Rows) -> _Machines:
    """The rows with one more for each message between positions, whose machine is its channel."""
    seconds, before, order = list(rows.seconds), [[(row, 1)] for row in range(len(rows.seconds))], []
    channels: dict[int, list[int]] = defaultdict(list)
    for row in rows.topological:
        order.append(row)
        for reader, channel, lasts, _ in rows.readers[row]:
            if channel < 0 or not lasts:
                before[reader].append((row, 0))
                continue
            message = len(seconds)
            seconds.append(lasts)
            before.append([(message, 1), (row, 0)])
            before[reader].append((message, 0))
            channels[channel].append(message)
            order.append(message)
    return _Machines([*rows.own, *channels.values()], seconds, before, order)


def _longest(machines: _Machines, waits: Waits, order: list[int], least: list[float], count: int) -> list[list[float]]:
    """Per row and micro-batch, counted from the end where `waits` do: the longest way there, without the action itself."""
    ways = [[least[row]] * count for row in range(len(waits))]
    for microbatch in range(count):
        for row in order:
            own = ways[row]
            for other, distance in waits[row]:
                if distance <= microbatch:
                    way = ways[other][microbatch - distance] + machines.seconds[other]
                    if way > own[microbatch]:
                        own[microbatch] = way
    return ways


def _room(rows: Rows) -> list[tuple[int, int, int]]:
    """(first, last, n): F of segment `first` of a micro-batch waits for B of segment `last` of the n-th before it.

    Both lie on one position, and are the same or `first` stands before `last` on a way that gradients take. While B of `last` of a
    micro-batch has not ended, neither has B of any segment before it. So if n more have gone through F of `first`, each of these
    n + 1 is kept by `first` and by those before it, and once F of `last` has begun, one by each after `first` up to `last`.
    """
    problem, after = rows.problem, _followers(rows.problem)
    if problem.limit is None:
        return []
    room = []
    for first in range(problem.segments):
        position = problem.position[first]
        own = [s for s in range(problem.segments) if problem.position[s] == position]
        each = sum(problem.kept[s] for s in own if s == first or first in after[s])
        for last in (s for s in own if s == first or s in after[first]):
            once = sum(problem.kept[s] for s in own if s in after[first] and (s == last or last in after[s]))
            if each > 0 and not math.isinf(problem.most(position)):
                most = (problem.most(position) * (1 + _ROUNDING) - once) / each
                room.append((first, last, math.floor(most)))
    return room


def _followers(problem: PipelineProblem) -> list[set[int]]:
    """Per segment, those after it on edges with gradients."""
    after: list[set[int]] = [set() for _ in problem.position]
    for edge in sorted(problem.edges, key=lambda each: -each.source):
        if edge.gradient:
            after[edge.source] |= {edge.target} | after[edge.target]
    return after


def _jobs(
    machines: _Machines, own: list[int], heads: list[list[float]], tails: list[list[float]]
) -> list[tuple[float, float, float]]:
    """Head, seconds and tail of all that one machine does."""
    return [
        (head, machines.seconds[row], tail)
        for row in own
        for head, tail in zip(heads[row], reversed(tails[row]), strict=True)
    ]


def _one_machine(jobs: list[tuple[float, float, float]]) -> float:
    """The end of Jackson's preemptive schedule of jobs with heads, seconds and tails."""
    now = end = 0.0
    ready: list[list[float]] = []  # minus the tail, seconds left
    later = sorted(jobs, reverse=True)
    while later or ready:
        if not ready:
            now = max(now, later[-1][0])
        while later and later[-1][0] <= now:
            _, seconds, tail = later.pop()
            heapq.heappush(ready, [-tail, seconds])
        following = later[-1][0] if later else math.inf
        if now + ready[0][1] <= following:
            minus_tail, seconds = heapq.heappop(ready)
            now += seconds
            end = max(end, now - minus_tail)
        else:
            ready[0][1] -= following - now
            now = following
    return end
