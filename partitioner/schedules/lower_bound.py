"""A time that no schedule beats, where segments lie on given positions.

Each action has a *head*, before which it cannot start, and a *tail*, the least time from its end to the end of the step. Both are
longest paths from action to action, in which the micro-batches of a row follow each other (`rows` says why that may be
assumed), and in which memory counts: an F waits for the B that makes room for it. With heads and tails given, the best that one
position could do by itself is known: Jackson's preemptive schedule, which always works on the ready action of the longest
tail (Carlier, "The one-machine sequencing problem", 1982). The bound is the worst of all positions.

Every weight gradient counts as deferred: a W right after its B is a whole backward, so that nothing is ruled out.
"""

from __future__ import annotations

import heapq
import math

from autopar.partitioner.schedules.pipeline_problem import PipelineProblem
from autopar.partitioner.schedules.rows import Rows, rows_of

Waits = list[list[tuple[int, int, float]]]
"""Per row, what its actions come after: a row, by how many micro-batches earlier, and seconds from that one's end."""

_ROUNDING = 1e-9  # of a limit


def lower_bound(problem: PipelineProblem) -> float:
    """Seconds that every schedule takes at least; `inf` where none fits the memory."""
    rows = rows_of(problem, [seconds > 0 for seconds in problem.weight])
    before: Waits = [[(row, 1, 0.0), *((o, 0, lasts) for o, lasts in each)] for row, each in enumerate(rows.before)]
    for first, last, count in _room(rows):
        if count < 1:
            return math.inf
        before[first].append((problem.segments + last, count, 0.0))
    after: Waits = [[] for _ in before]
    for row, waits in enumerate(before):
        for other, distance, lasts in waits:
            after[other].append((row, distance, lasts))
    heads = _longest(rows, before, rows.topological, [0.0] * problem.positions)
    tails = _longest(rows, after, rows.topological[::-1], [problem.after(p) for p in range(problem.positions)])
    return max(
        max(problem.after(position), _one_machine([job for row in own for job in _jobs(rows, row, heads, tails)]))
        for position, own in enumerate(rows.own)
    )


def _longest(rows: Rows, waits: Waits, order: list[int], least: list[float]) -> list[list[float]]:
    """Per row and micro-batch, counted from the end where `waits` do: the longest way there, without the action itself."""
    problem, seconds = rows.problem, rows.seconds
    ways = [[least[problem.position[row % problem.segments]]] * problem.microbatches for row in range(len(seconds))]
    for microbatch in range(problem.microbatches):
        for row in order:
            for other, distance, lasts in waits[row]:
                if distance <= microbatch:
                    way = ways[other][microbatch - distance] + seconds[other] + lasts
                    if way > ways[row][microbatch]:
                        ways[row][microbatch] = way
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


def _jobs(rows: Rows, row: int, heads: list[list[float]], tails: list[list[float]]) -> list[tuple[float, float, float]]:
    """Head, seconds and tail of every action of a row."""
    return [(head, rows.seconds[row], tail) for head, tail in zip(heads[row], reversed(tails[row]), strict=True)]


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
