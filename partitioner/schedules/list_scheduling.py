"""List scheduling: time goes on from event to event, and a position that is free does the ready action that is most urgent.

How urgent an action is a `Priority` says. Nothing is started for which there would be no memory: an F needs room for what it
keeps, and must leave room for the next micro-batch that is not through with its forwards on this position. The
oldest micro-batch of all can then always go on, ends, and makes room: no order of priorities leads into a deadlock.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from autopar.partitioner.schedules.rows import Rows

_ROUNDING = 1e-12  # of a limit: sums of bytes differ in the order of their terms


@dataclass(frozen=True, slots=True)
class Priority:
    """Action k of a row is the more urgent the less `period * k - urgency[row]` is, all in seconds.

    A position does not start an action of d seconds if one more urgent arrives within `patience * d`. After the first `at_once`
    micro-batches, which may begin at once, one more may every `pace` seconds: where memory is short, forwards that run
    ahead take what others need.
    """

    period: float
    urgency: tuple[float, ...]
    patience: float = 0.0
    pace: float = 0.0
    at_once: int = 1


class _Pipeline:
    """The pipeline at one moment: what has been started, what has arrived or will, what is held."""

    def __init__(self, rows: Rows, pace: float = 0.0, at_once: int = 1) -> None:
        problem = rows.problem
        self.rows, self.count, self.segments = rows, problem.microbatches, problem.segments
        self.started = [0] * len(rows.seconds)  # actions per row
        self.missing = [len(waits) for waits in rows.before for _ in range(self.count)]
        self.arrival = [0.0] * len(self.missing)
        self.codes: list[list[int]] = [[] for _ in range(problem.positions)]
        self.free = [0.0] * problem.positions
        self.channel_free = [0.0] * problem.positions**2
        self.events = [(0.0, position) for position in range(problem.positions)]
        for row in (row for row in rows.topological if pace and not rows.before[row]):
            for number, code in enumerate(range(row * self.count + at_once, (row + 1) * self.count), 1):
                self.arrival[code] = number * pace
                self.events.append((number * pace, problem.position[row]))
        heapq.heapify(self.events)
        self.limit = [problem.most(position) * (1 + _ROUNDING) for position in range(problem.positions)]
        self.bytes = [0.0] * problem.positions
        # Where more is held from B to W than is kept before, room for it is taken at F.
        self.kept = [
            max(0.0, change) + problem.kept[s] for s, change in enumerate(rows.change[self.segments :][: self.segments])
        ]
        self.change = [*self.kept, *(-k for k in self.kept), *rows.change[2 * self.segments :]]
        for s, change in enumerate(rows.change[2 * self.segments :]):
            self.change[self.segments + s] -= change
        self.forwards = [[row for row in own if row < self.segments] for own in rows.own]

    def fits(self, position: int, row: int) -> bool:
        """Whether there is room for the next F of a row, and then still for the oldest micro-batch that is not forwarded."""
        if self.bytes[position] + self.kept[row] > self.limit[position]:
            return False
        if len(self.forwards[position]) == 1:
            return True
        started, forwards = self.started, self.forwards[position]
        started[row] += 1
        oldest = min(started[other] for other in forwards)
        need = sum(self.kept[other] * max(1, started[other] - oldest) for other in forwards)
        started[row] -= 1
        return oldest == self.count or need <= self.limit[position]

    def start(self, position: int, row: int, now: float) -> None:
        """Does the next action of a row from now on, and lets those who wait for it know."""
        microbatch = self.started[row]
        self.started[row] += 1
        self.codes[position].append(row * self.count + microbatch)
        self.bytes[position] += self.change[row]
        end = self.free[position] = now + self.rows.seconds[row]
        heapq.heappush(self.events, (end, position))
        for target, channel, lasts, there in self.rows.readers[row]:
            code = target * self.count + microbatch
            at = end
            if channel >= 0:
                at = self.channel_free[channel] = max(end, self.channel_free[channel]) + lasts
            if at > self.arrival[code]:
                self.arrival[code] = at
            self.missing[code] -= 1
            if not self.missing[code] and (there != position or self.arrival[code] > end):
                heapq.heappush(self.events, (self.arrival[code], there))


def list_schedule(rows: Rows, priority: Priority) -> list[list[int]]:
    """The codes of each position. Every position must have room for one micro-batch (`has_room`)."""
    state = _Pipeline(rows, priority.pace, priority.at_once)
    pick = _picker(state, priority)
    while state.events:
        now, position = heapq.heappop(state.events)
        if state.free[position] <= now:
            row = pick(position, now)
            if row is not None:
                state.start(position, row, now)
    assert sum(map(len, state.codes)) == rows.count, "list scheduling ended in a deadlock"
    return state.codes


def has_room(rows: Rows) -> bool:
    """Whether every position has room for one micro-batch in all its segments."""
    state = _Pipeline(rows)
    needs = [sum(state.kept[row] for row in own) for own in state.forwards]
    return all(need <= limit for need, limit in zip(needs, state.limit, strict=True))


def _picker(state: _Pipeline, priority: Priority) -> Callable[[int, float], int | None]:
    """Which row a free position does next; None where it waits."""
    period, urgency, patience = priority.period, priority.urgency, priority.patience
    started, missing, arrival, count = state.started, state.missing, state.arrival, state.count
    seconds, limited = state.rows.seconds, state.rows.problem.limit is not None

    def pick(position: int, now: float) -> int | None:
        best, least, soon, sooner, comes = -1, 0.0, -1, 0.0, 0.0
        for row in state.rows.own[position]:
            microbatch = started[row]
            if microbatch == count or missing[row * count + microbatch]:
                continue
            if limited and row < state.segments and not state.fits(position, row):
                continue
            key, at = period * microbatch - urgency[row], arrival[row * count + microbatch]
            if at <= now:
                if best < 0 or key < least:
                    best, least = row, key
            elif patience and (soon < 0 or key < sooner):
                soon, sooner, comes = row, key, at
        if best < 0 or (soon >= 0 and sooner < least and comes - now < patience * seconds[best]):
            return None
        return best

    return pick
