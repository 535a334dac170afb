"""By which orders list scheduling is tried, and how few micro-batches in flight may do.

Urgent is what has the longest way to the end of the step, micro-batches being due one after the other: a share of the period
apart, which is what the busiest position needs for one. On drawn pipelines the best of them are those in which deferred weight
gradients wait till nothing else is ready; none is best everywhere. Where memory is short, and most of all where a position has
segments far apart, it is better to hold micro-batches back.
"""

from __future__ import annotations

import math
from dataclasses import replace

from autopar.partitioner.schedules.list_scheduling import Priority
from autopar.partitioner.schedules.rows import Rows, rows_of

_TRIED = (
    # What comes before the longest way, share of the period, patience. The first are those that do best by themselves.
    ("weights last", 0.5, 0.0),
    ("weights last", 0.5, 0.5),
    ("backward first", 1.0, 0.5),
    ("longest way", 0.25, 0.5),
    ("longest way", 1.0, 0.5),
    ("weights last", 0.25, 0.0),
    ("backward first", 0.0, 0.0),
    ("weights last", 1.0, 0.0),
)
_PACED = (
    # The same, then periods from one micro-batch to the next that may begin, and how many may begin at once.
    ("weights last", 1.5, 0.5, 1.0, 2),
    ("weights last", 1.5, 0.5, 1.25, 2),
    ("longest way", 1.5, 0.5, 1.6, 2),
    ("furthest first", 0.0, 0.0, 1.0, 2),
    ("longest way", 0.5, 0.5, 1.0, 4),
    ("weights last", 1.0, 0.5, 1.25, 2),
    ("longest way", 1.0, 0.0, 1.0, 1),
    ("longest way", 0.5, 0.5, 1.6, 2),
    ("weights last", 0.5, 0.0, 0.8, 2),
)
ROOM = (1.0, 1.3, 2.0, 3.0)
"""Shares of the micro-batches that fill the way from F to B, for `sized`."""


def priorities(rows: Rows) -> list[Priority]:
    """The orders that are tried, the most promising first; those that hold micro-batches back only where memory is limited."""
    ways, busiest = longest_ways(rows), period(rows)
    segments, most = rows.problem.segments, sum(ways)
    # Urgency of F, B and W: a factor of the longest way, and what is added to it.
    terms = {
        "longest way": ((1, 0.0), (1, 0.0), (1, 0.0)),
        "weights last": ((1, 0.0), (1, 0.0), (1, -most)),
        "backward first": ((1, 0.0), (1, most), (1, -most)),
        "furthest first": ((-1, 0.0), (1, most), (1, -most)),
    }
    found = []
    for order, share, patience, pace, at_once in [*((*each, 0.0, 1) for each in _TRIED), *_PACED]:
        if pace == 0.0 or rows.problem.limit is not None:
            kinds = terms[order]
            urgency = (kinds[row // segments][0] * way + kinds[row // segments][1] for row, way in enumerate(ways))
            found.append(Priority(share * busiest, tuple(urgency), patience, pace * busiest, at_once))
    return found


def longest_ways(rows: Rows) -> list[float]:
    """Per row: seconds from the start of an action to the end of the step, were there but this one micro-batch."""
    ways = [0.0] * len(rows.seconds)
    for row in reversed(rows.topological):
        update = rows.problem.after(rows.problem.position[row % rows.problem.segments])
        ways[row] = rows.seconds[row] + max(
            [update, *(lasts + ways[other] for other, _, lasts, _ in rows.readers[row])]
        )
    return ways


def period(rows: Rows) -> float:
    """Seconds of the busiest position for one micro-batch."""
    return max(sum(rows.seconds[row] for row in own) for own in rows.own)


def sized(rows: Rows, share: float) -> Rows:
    """The same pipeline with limits that hold few micro-batches in flight, and never more than its own limits.

    By Little's law, a segment that does one micro-batch per period has as many in flight as periods pass from F to B.
    """
    problem, ways, busiest = rows.problem, longest_ways(rows), period(rows) or 1.0
    limit = [0.0] * problem.positions
    for segment, position in enumerate(problem.position):
        backward = problem.segments + segment
        passes = (ways[segment] - ways[backward] + rows.seconds[backward]) / busiest
        count = min(problem.microbatches, max(1, math.ceil(share * passes)))
        limit[position] += count * (problem.kept[segment] + max(0.0, rows.change[backward]))
    least = tuple(min(size, problem.most(position)) for position, size in enumerate(limit))
    return rows_of(replace(problem, limit=least), rows.deferred)
