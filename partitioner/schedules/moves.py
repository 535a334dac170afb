"""Small changes to a schedule that make it shorter: an action of the longest path goes past some of its neighbours.

What decides the makespan is a path of actions, each of which starts when the one before it has ended, on its own position
or elsewhere. No change that leaves this path as it is makes the step shorter (as in job shops: van Laarhoven, Aarts, Lenstra,
1992), so mostly pairs on it are tried; others may make room in memory for them. Steps that are a little longer are kept
at first, ever less of them later (simulated annealing).
"""

from __future__ import annotations

import math
import random

from autopar.partitioner.schedules.rows import Codes, Rows
from autopar.partitioner.schedules.simulate import finish, fits, run

_FURTHEST = 3  # places that an action is moved by
_ELSEWHERE = 0.2  # of the tries, off the longest path
_LONGER = 0.7  # actions' shares of the step by which it may become longer at first, with a chance of 1 / e
_ROUNDING = 1e-9  # of the step


def improve(rows: Rows, codes: Codes, bound: float, tries: int) -> list[list[int]]:
    """A schedule at least as good, after some tries or as soon as its makespan is at the bound."""
    draw = random.Random(0)
    now = [list(each) for each in codes]
    ends = run(rows, now)
    assert ends is not None, "a schedule of our own deadlocks"
    best, least = list(now), finish(rows.problem, ends)
    seconds, pairs = least, critical_pairs(rows, now, ends)
    for number in range(tries):
        if not pairs or least <= bound:
            break
        position, index = draw.choice(pairs)
        if draw.random() < _ELSEWHERE:
            position = draw.choice([p for p, own in enumerate(now) if len(own) > 1])
            index = draw.randrange(1, len(now[position]))
        old = now[position]
        now[position] = _moved(rows, old, index, draw)
        ends = run(rows, now) if now[position] != old and fits(rows, position, now[position]) else None
        allowed = seconds - math.log(1.0 - draw.random()) * _LONGER / rows.count * (1 - number / tries) * least
        if ends is None or finish(rows.problem, ends) > allowed:
            now[position] = old
            continue
        seconds, pairs = finish(rows.problem, ends), critical_pairs(rows, now, ends)
        if seconds < least:
            best, least = list(now), seconds
    return best


def critical_pairs(rows: Rows, codes: Codes, ends: list[list[float]]) -> list[tuple[int, int]]:
    """(position, index) of the actions on a longest path that start when the one before them in the list ends.

    A message that waits for its channel counts as one that was sent late.
    """
    count = rows.problem.microbatches
    place = {code: (p, i) for p, own in enumerate(codes) for i, code in enumerate(own)}
    last = [(own[-1] if own else 0.0) + rows.problem.after(position) for position, own in enumerate(ends)]
    position = last.index(max(last))
    index = len(ends[position]) - 1
    pairs = []
    while index >= 0:
        own, (row, microbatch) = ends[position], divmod(codes[position][index], count)
        start = own[index] - rows.seconds[row]
        if index and own[index - 1] >= start - _ROUNDING * max(last):
            if codes[position][index - 1] // count != row:
                pairs.append((position, index))
            index -= 1
            continue
        came = [(place[other * count + microbatch], lasts) for other, lasts in rows.before[row]]
        if not came:
            break
        (position, index), _ = max(came, key=lambda each: ends[each[0][0]][each[0][1]] + each[1])
    return pairs


def _moved(rows: Rows, own: list[int], index: int, draw: random.Random) -> list[int]:
    """A list in which the action at `index` is some places earlier, or the one before it some places later.

    No action goes past one of its own row, all of which are alike.
    """
    distance, count = draw.randint(1, _FURTHEST), rows.problem.microbatches
    if draw.random() < 0.5:
        to = max(0, index - distance)
        one, passed = own[index], own[to:index]
        new = [*own[:to], one, *passed, *own[index + 1 :]]
    else:
        to = min(len(own), index + distance)
        one, passed = own[index - 1], own[index:to]
        new = [*own[: index - 1], *passed, one, *own[to:]]
    return own if any(code // count == one // count for code in passed) else new
