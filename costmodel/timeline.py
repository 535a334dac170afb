"""One training step as events in time: what a rank does when, what it waits for, and what goes on behind its back.

A step is a list of tasks, the same on all ranks, in the order in which a program carries them out. Every rank has two
lanes. The compute lane does one task after another; the communication lane carries gradient sums while the compute lane goes on.

    a task without axes     starts when the compute lane is free                        t = c
    an exchange over axes   starts when all ranks of these axes have come to it         t = max c over the group
    a halo exchange         starts when the two neighbours on the axis have             t = max c over {i-1, i, i+1}
    a gradient sum          its compute part as an exchange; then its other part on the communication lane, after the
                            sums before it (w is where that lane is free)               t = max (c, w) over the group
    the update              starts when the communication lane is empty                 t = max (c, w)

An exchange over a link that gradient sums use as well holds those up for as long as it takes. All of this is monotone in the
durations: a rank that is f times slower makes a step last at least as long, and at most f times as long.

Ranks may take different shares of a task's seconds (`Task.ranks`). `slow` multiplies the compute of single ranks. `jitter` s
multiplies every compute task on every rank, each time anew, by a number of mean 1, exp(s z - s^2 / 2) with z normal (log-normal,
standard deviation about s). All ranks are computed at once, as arrays; without slow ranks and jitter they are alike, and one is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]  # one number per rank


@dataclass(frozen=True, slots=True)
class Event:
    """Something that one rank did, in seconds from the step's beginning.

    kind    forward, backward, communication, gradients, update or wait
    lane    compute or communication; no two events of one lane overlap
    name    the call's name, the converted value, "bucket 3", "update"
    detail  module and source line
    """

    name: str
    kind: str
    lane: str
    start: float
    end: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """What every rank does at this place of the step.

    seconds   on the compute lane
    hidden    further seconds, on the communication lane
    axes      of the grid, whose ranks wait for each other; () for work of one's own
    near      whether only neighbours on the axis do
    hinders   whether it takes a link on which gradient sums may be under way
    ranks     of the seconds, the share that each rank takes; () where all take them in full
    """

    name: str
    kind: str
    seconds: float
    hidden: float = 0.0
    axes: tuple[int, ...] = ()
    near: bool = False
    hinders: bool = False
    detail: str = ""
    ranks: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Ranks:
    """What a simulation found.

    steps          seconds of every step, from the end of the one before on the last rank to its own
    compute, communication, exposed, waiting    seconds of all steps per rank: its own work; exchanges under way; gradient
                   sums that do not hide; waiting for other ranks, at last for the end of all. Together they are all of the time
    sums           seconds of gradient sums in all, hidden or not, over all steps
    events         of the first step, of the ranks that were asked for
    """

    steps: tuple[float, ...]
    compute: Times
    communication: Times
    exposed: Times
    waiting: Times
    sums: float
    events: Mapping[int, tuple[Event, ...]]

    @property
    def seconds(self) -> float:
        """The mean step."""
        return sum(self.steps) / len(self.steps)

    @property
    def critical(self) -> int:
        """The rank that waits least: the others wait for it."""
        return int(np.argmin(self.waiting))


@dataclass(slots=True)
class _Record:
    """One task on the ranks that are watched."""

    task: Task
    lane: str
    kind: str
    start: Times
    end: Times


@dataclass(slots=True)
class _Lanes:
    """Where the two lanes of every rank are free, and what has been added up so far."""

    size: int
    shape: tuple[int, ...]
    watched: list[int]
    records: list[_Record] = field(default_factory=list)
    flight: list[_Record] = field(default_factory=list)  # on the communication lane
    keep: bool = True
    clock: Times = field(init=False)
    wire: Times = field(init=False)
    compute: Times = field(init=False)
    communication: Times = field(init=False)
    exposed: Times = field(init=False)
    waiting: Times = field(init=False)

    def __post_init__(self) -> None:
        self.clock = self.wire = self.compute = np.zeros(self.size)
        self.communication = self.exposed = self.waiting = np.zeros(self.size)

    def note(self, task: Task, lane: str, kind: str, start: Times, end: Times) -> None:
        if self.keep and self.watched:
            record = _Record(task, lane, kind, start[self.watched], end[self.watched])
            self.records.append(record)
            if lane == "communication":
                self.flight.append(record)

    def arrive(self, times: Times, task: Task) -> Times:
        """When the last of those that a rank waits for has come."""
        if not task.axes or times.size == 1:
            return times
        grid = times.reshape(self.shape)
        if not task.near:
            return np.broadcast_to(grid.max(axis=task.axes, keepdims=True), self.shape).reshape(-1)
        last = grid.copy()
        for axis in task.axes:
            moved, reached = np.moveaxis(grid, axis, 0), np.moveaxis(last, axis, 0)
            np.maximum(reached[1:], moved[:-1], out=reached[1:])
            np.maximum(reached[:-1], moved[1:], out=reached[:-1])
        return last.reshape(-1)

    def wait(self, task: Task, until: Times) -> None:
        self.note(task, "compute", "wait", self.clock, until)
        self.clock = until

    def do(self, task: Task, spent: Times) -> None:
        """Occupy the compute lane."""
        end = self.clock + spent
        self.note(task, "compute", task.kind, self.clock, end)
        self.clock = end


def simulate(
    tasks: Sequence[Task],
    shape: Sequence[int] = (),
    *,
    slow: Mapping[int, float] | None = None,
    jitter: float = 0.0,
    seed: int = 0,
    steps: int = 1,
    watch: Sequence[int] = (0,),
) -> Ranks:
    """Let all ranks of a grid of this shape carry out the tasks, `steps` times one behind the other.

    `slow` has the factors of single ranks, `watch` the ranks whose events are wanted. The same arguments give the same times.
    """
    factors = {rank: factor for rank, factor in (slow or {}).items() if factor != 1.0}
    alike = not factors and jitter == 0.0 and not any(task.ranks for task in tasks)
    ranks = math.prod(shape)
    size = 1 if alike else ranks
    speed = np.ones(size)
    for rank, factor in factors.items():
        speed[rank] = factor
    state = _Lanes(size, tuple(shape), [0] if alike else list(watch))
    draw = np.random.default_rng(seed)
    durations: list[float] = []
    last = 0.0
    for _ in range(steps):
        _step(state, tasks, speed, jitter, draw)
        durations.append(float(state.clock.max()) - last)
        last, state.keep = last + durations[-1], False
    state.waiting = state.waiting + (last - state.clock)
    sums = steps * sum(task.seconds + task.hidden for task in tasks if task.kind == "gradients")
    events = {rank: tuple(_events(state.records, 0 if alike else i)) for i, rank in enumerate(watch)}
    compute, communication, exposed, waiting = (
        np.broadcast_to(seconds, (ranks,))
        for seconds in (state.compute, state.communication, state.exposed, state.waiting)
    )
    return Ranks(tuple(durations), compute, communication, exposed, waiting, sums, events)


def _step(state: _Lanes, tasks: Sequence[Task], speed: Times, jitter: float, draw: np.random.Generator) -> None:
    for task in tasks:
        if task.kind == "gradients":
            _sum(state, task)
        elif task.axes:
            _exchange(state, task)
        elif task.kind == "communication":  # inside a rank's memory
            state.communication = state.communication + task.seconds
            state.do(task, np.full_like(speed, task.seconds))
        else:
            spent = task.seconds * speed * np.array(task.ranks) if task.ranks else task.seconds * speed
            if jitter and task.seconds:
                spent = spent * draw.lognormal(-jitter * jitter / 2, jitter, speed.shape)
            if task.kind == "update":
                _join(state)
            state.compute = state.compute + spent
            state.do(task, spent)
    _join(state)


def _exchange(state: _Lanes, task: Task) -> None:
    start = state.arrive(state.clock, task)
    state.waiting = state.waiting + (start - state.clock)
    state.wait(task, start)
    if task.hinders and task.seconds:
        _hold(state, start, task.seconds)
    state.communication = state.communication + task.seconds
    state.do(task, np.full_like(start, task.seconds))


def _hold(state: _Lanes, start: Times, spent: float) -> None:
    """What the communication lane still has to do from `start` on ends so much later."""
    state.wire = np.where(state.wire > start, state.wire + spent, state.wire)
    here = start[state.watched]
    for record in reversed(state.flight):
        late = record.end > here
        if not late.any():
            break
        record.start = np.where(late & (record.start >= here), record.start + spent, record.start)
        record.end = np.where(late, record.end + spent, record.end)


def _sum(state: _Lanes, task: Task) -> None:
    if task.seconds:
        start = state.arrive(state.clock, task)
        state.waiting = state.waiting + (start - state.clock)
        state.wait(task, start)
        state.exposed = state.exposed + task.seconds
        state.do(task, np.full_like(start, task.seconds))
    if task.hidden:
        start = state.arrive(np.maximum(state.clock, state.wire), task)
        state.wire = start + task.hidden
        state.note(task, "communication", task.kind, start, state.wire)


_LEFT = Task("gradient sums", "wait", 0.0)


def _join(state: _Lanes) -> None:
    """Wait until the communication lane is empty. What all ranks wait is exposed, what some wait longer is for others."""
    until = np.maximum(state.clock, state.wire)
    gap = until - state.clock
    state.exposed = state.exposed + gap.min()
    state.waiting = state.waiting + (gap - gap.min())
    state.wait(_LEFT, until)
    state.flight.clear()


def _events(records: Sequence[_Record], place: int) -> Iterator[Event]:
    """The events of one watched rank in order of their beginning; what takes no time is left out."""
    timed = [(float(record.start[place]), float(record.end[place]), record) for record in records]
    for start, end, record in sorted(timed, key=lambda item: item[:2]):
        if end > start:
            yield Event(record.task.name, record.kind, record.lane, start, end, record.task.detail)
