"""Bytes that one position of a divided graph holds through its list of actions, from those of its segments: a walk.

Time of one segment and micro-batch runs in 2 n + w steps for n executed calls: call t at time t, its backward at 2 n - 1 - t, and
behind it what is deferred. F has the times below n, B those below 2 n, W the rest; before the first call of a B its gradients
are gathered, and behind the last they are sent. What lies between two segments is held

    a value      from the call that makes it, or from when its receive is posted (`autopar.ir.pipeline.receives`); till the last
                 segment here that reads it has run F, till what has been sent is through, while calls keep it for backward
    a gradient   from the backward that makes it, or from when its receive is posted; till all parts of it are summed, till it
                 is sent, till the backward that uses it

Sums of one action are taken to be made at once. A message is through once it has arrived and its receiver has come by: MPI
moves messages between two actions, or while one waits.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autopar.ir.pipeline.receives import posted_at
from autopar.ir.pipeline.schedule import Action, ActionLists

Place = tuple[int, int]
"""An action of a list, by its number, and a time in it."""


@dataclass(frozen=True, slots=True)
class ReadMemory:
    """What a segment reads of another: the time until which calls keep it (0: they do not), and at which its gradient is made."""

    nbytes: int
    kept: int
    gradient: int


@dataclass(frozen=True, slots=True)
class WrittenMemory:
    """What a segment hands on: the memory it lies in, which other results with that `region` share, of so many `nbytes`.

    Times: when it is `made`, until when calls keep it for backward (0: they do not), until when its `gradient` is used.
    """

    region: int
    nbytes: int
    made: int
    kept: int
    gradient: int


@dataclass(frozen=True, slots=True, eq=False)
class SegmentMemory:
    """What one segment holds for a micro-batch, without what lies between segments, through the 2 n + w times of it.

    inside  bytes at every time
    saved   those of them that are kept for backward
    kept    bytes from F to B
    held    bytes from B to W
    births  the gradients of parameters: name, bytes, and the time at which they come; `inside` has them at that time alone
    """

    steps: int
    inside: NDArray[np.int64]
    saved: NDArray[np.int64]
    kept: int
    held: int
    births: tuple[tuple[str, int, int], ...]
    reads: Mapping[str, ReadMemory]
    writes: Mapping[str, WrittenMemory]

    @property
    def in_flight(self) -> int:
        """Bytes from F to B, with what calls keep of what is read and written."""
        return self.kept + self._crossing(self.steps)

    @property
    def put_off(self) -> int:
        """Bytes from B to W, likewise."""
        return self.held + self._crossing(2 * self.steps)

    def _crossing(self, time: int) -> int:
        """Bytes of what is read and written that calls keep beyond a time."""
        written = {one.region: one.nbytes for one in self.writes.values() if one.kept > time}
        return sum(written.values()) + sum(one.nbytes for one in self.reads.values() if one.kept > time)


@dataclass(frozen=True, slots=True)
class CrossingEdge:
    """A tensor that leaves a segment, of so many bytes of a rank and micro-batch: who reads it; does the program return it."""

    name: str
    source: int
    readers: tuple[int, ...]
    nbytes: int
    gradient: bool
    returned: bool


@dataclass(frozen=True, slots=True)
class DividedStep:
    """A step of a divided graph: segments on positions, edges, the lists, and when every action starts and ends, in seconds.

    `seconds` are those of a message between two positions, by its bytes.
    """

    position: tuple[int, ...]
    segments: tuple[SegmentMemory, ...]
    edges: tuple[CrossingEdge, ...]
    lists: ActionLists
    start: Sequence[Sequence[float]]
    end: Sequence[Sequence[float]]
    seconds: Callable[[int, int, int], float]

    def posted(self) -> list[list[int]]:
        """For every action of every position, the number of the one before which its receives are posted."""
        coming: dict[tuple[str, int], list[tuple[int, int, int]]] = {}  # by kind and segment: edge, sender, bytes
        for number, edge in enumerate(self.edges):
            home = self.position[edge.source]
            for reader in edge.readers:
                if self.position[reader] != home:
                    coming.setdefault(("F", reader), []).append((number, home, edge.nbytes))
            for other in {self.position[reader] for reader in edge.readers} - {home} if edge.gradient else ():
                coming.setdefault(("B", edge.source), []).append((number, other, edge.nbytes))
        found = []
        for actions in self.lists:
            known: set[tuple[str, int, int, int]] = set()  # a value comes once, however many segments read it
            needed = [0] * len(actions)
            for i, (kind, segment, m) in enumerate(actions):
                for number, other, nbytes in coming.get((kind, segment), ()):
                    needed[i] += nbytes if (kind, number, other, m) not in known else 0
                    known.add((kind, number, other, m))
            found.append(posted_at(needed))
        return found


@dataclass(frozen=True, slots=True)
class PositionPeak:
    """The most bytes that a position holds in its actions: by kind, and in which action that is (None: it has none)."""

    nbytes: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)
    action: Action | None = None


def position_peaks(step: DividedStep) -> list[PositionPeak]:
    """The walk through the actions of every position."""
    posted = step.posted()
    numbers = [{action: i for i, action in enumerate(actions)} for actions in step.lists]
    return [_PositionWalk(step, position, posted, numbers).peak() for position in range(len(step.lists))]


class _PositionWalk:
    """One position: the changes of what lies between segments, by action, at their times."""

    def __init__(
        self, step: DividedStep, position: int, posted: list[list[int]], numbers: list[dict[Action, int]]
    ) -> None:
        self.step, self.at = step, position
        self.posted, self.numbers = posted, numbers
        self.actions, self.number = step.lists[position], numbers[position]
        self.changes: list[list[tuple[int, int, str]]] = [[] for _ in range(len(self.actions) + 1)]
        self.trains = any(action.kind == "B" for action in self.actions)
        at = step.position
        self.edges = [edge for edge in step.edges if position in {at[edge.source], *(at[i] for i in edge.readers)}]
        self.known_times: dict[tuple[int, str], tuple[NDArray[np.int64], NDArray[np.int64], int, int]] = {}
        for m in sorted({action.microbatch for action in self.actions}):
            self._values(m)
            self._gradients(m)

    def hold(self, start: Place, end: Place, nbytes: int, kind: str) -> None:
        """Bytes that are held from one time to another."""
        if start < end and nbytes:
            self.changes[start[0]].append((start[1], nbytes, kind))
            self.changes[end[0]].append((end[1], -nbytes, kind))

    def until(self, segment: int, m: int, time: int) -> Place:
        """The place in the list where something ends that is held until a time of a segment and micro-batch."""
        n = self.step.segments[segment].steps
        if time <= n:
            return self.number[Action("F", segment, m)], time
        if time <= 2 * n:
            return self.number[Action("B", segment, m)], time - n + 1
        return self.number[Action("W", segment, m)], time - 2 * n

    def over(self, kind: str, segment: int, m: int) -> Place:
        """The end of an action."""
        return self.number[Action(kind, segment, m)] + 1, 0

    def sent(self, after: Place, reader: Action, nbytes: int) -> Place:
        """When what is sent behind an action is through; `reader` is the first action there that needs it."""
        step, begun = self.step, after[0] - 1
        there = step.position[reader.segment]
        wanted = self.numbers[there][reader]
        ready = step.end[self.at][begun] + step.seconds(self.at, there, nbytes)
        posted = self.posted[there][wanted]
        ends = step.end[there]
        free = max(ready, ends[posted - 1] if posted else 0.0)
        runs = bisect_left(ends, free)
        through = free if runs == len(ends) or free <= step.start[there][runs] else ends[runs]
        noticed = bisect_left(step.end[self.at], through, begun)
        return min(noticed + 1, len(self.actions)), 0

    def _values(self, m: int) -> None:
        """What segments hand on, of one micro-batch."""
        regions: dict[tuple[int, int], list[Place]] = {}
        sizes: dict[tuple[int, int], int] = {}
        for edge in self.edges:
            here = [reader for reader in edge.readers if self.step.position[reader] == self.at]
            ends = [end for reader in here for end in self._read(reader, edge.name, m)]
            if self.step.position[edge.source] == self.at:
                own = self.step.segments[edge.source].writes[edge.name]
                key = edge.source, own.region
                ends += self._written(edge, m)
                regions.setdefault(key, [(self.number[Action("F", edge.source, m)], own.made)]).extend(ends)
                sizes[key] = max(own.nbytes, sizes.get(key, 0))
            elif here:
                first = min(self.number[Action("F", reader, m)] for reader in here)
                self.hold((self.posted[self.at][first], 0), (first, 0), edge.nbytes, "buffers")
                self.hold((first, 0), max(ends), edge.nbytes, "activations")
        for key, (start, *ends) in regions.items():
            self.hold(start, max(ends), sizes[key], "activations")

    def _read(self, reader: int, name: str, m: int) -> Iterator[Place]:
        """Until when a segment holds what it reads."""
        yield self.over("F", reader, m)
        kept = self.step.segments[reader].reads[name].kept
        if kept and self.trains:
            yield self.until(reader, m, kept)

    def _written(self, edge: CrossingEdge, m: int) -> Iterator[Place]:
        """Until when a segment holds what it has written; for how long it is kept here."""
        over = self.over("F", edge.source, m)
        yield over
        kept = self.step.segments[edge.source].writes[edge.name].kept
        if kept and self.trains:
            yield self.until(edge.source, m, kept)
        if edge.returned:
            yield len(self.actions), 0
        for other in {self.step.position[reader] for reader in edge.readers} - {self.at}:
            yield self.sent(over, self._first("F", edge, other, m), edge.nbytes)

    def _first(self, kind: str, edge: CrossingEdge, position: int, m: int) -> Action:
        """The first action of a kind of the segments of a position that read an edge."""
        readers = (Action(kind, reader, m) for reader in edge.readers if self.step.position[reader] == position)
        return min(readers, key=self.numbers[position].__getitem__)

    def _gradients(self, m: int) -> None:
        """What comes back, of one micro-batch."""
        for edge in self.edges if self.trains else ():
            if not edge.gradient:
                continue
            home = self.step.position[edge.source]
            here = [reader for reader in edge.readers if self.step.position[reader] == self.at]
            made = [self._made(edge, reader, m) for reader in here]
            if home == self.at:
                self._used(edge, made, m)
            elif here:
                self._sent_back(edge, made, m)

    def _made(self, edge: CrossingEdge, reader: int, m: int) -> Place:
        """When a segment makes the gradient of what it has read."""
        memory = self.step.segments[reader]
        return self.number[Action("B", reader, m)], memory.reads[edge.name].gradient - memory.steps + 1

    def _used(self, edge: CrossingEdge, made: Sequence[Place], m: int) -> None:
        """Parts of the gradient of what a segment here has written, and their sum."""
        number = self.number[Action("B", edge.source, m)]
        for start in made:
            self.hold(start, (number, 1), edge.nbytes, "transients")
        if len(made) > 1:
            self.hold((number, 0), (number, 1), edge.nbytes, "transients")
        for _ in {self.step.position[reader] for reader in edge.readers} - {self.at}:
            self.hold((self.posted[self.at][number], 0), (number, 0), edge.nbytes, "buffers")
            self.hold((number, 0), (number, 1), edge.nbytes, "transients")
        used = self.step.segments[edge.source].writes[edge.name].gradient
        if edge.readers:
            self.hold((number, 1), self.until(edge.source, m, used), edge.nbytes, "transients")

    def _sent_back(self, edge: CrossingEdge, made: Sequence[Place], m: int) -> None:
        """Parts of the gradient of what another position has written, and their sum, which goes there."""
        last = max(number for number, _ in made)
        end = self.sent((last + 1, 0), Action("B", edge.source, m), edge.nbytes)
        for start in made:
            self.hold(start, end if len(made) == 1 else (last + 1, 0), edge.nbytes, "transients")
        if len(made) > 1:
            times = self.step.segments[self.actions[last].segment].steps
            self.hold((last, times + 1), end, edge.nbytes, "transients")

    def peak(self) -> PositionPeak:
        """The most that is held at once."""
        held, known, best = (
            dict.fromkeys(("activations", "buffers", "transients", "gradients"), 0),
            set[str](),
            PositionPeak(),
        )
        for i, action in enumerate(self.actions):
            inside, saved, before, after = self._times(action)
            held["activations"] -= before
            changes = [*self.changes[i], *self._births(action, known)]
            total = inside + sum(held.values())
            for time, nbytes, _ in changes:
                total[time:] += nbytes
            at = int(total.argmax())
            if total[at] > best.nbytes:
                parts = dict(held)
                for time, nbytes, kind in changes:
                    parts[kind] += nbytes if time <= at else 0
                parts["activations"] += int(saved[at])
                parts["transients"] += int(inside[at] - saved[at])
                best = PositionPeak(int(total[at]), parts, action)
            for _, nbytes, kind in changes:
                held[kind] += nbytes
            held["activations"] += after
        return best

    def _times(self, action: Action) -> tuple[NDArray[np.int64], NDArray[np.int64], int, int]:
        """`_times` of an action, worked out once for all micro-batches."""
        key = action.segment, action.kind
        if key not in self.known_times:
            self.known_times[key] = _times(self.step.segments[action.segment], action.kind)
        return self.known_times[key]

    def _births(self, action: Action, known: set[str]) -> Iterator[tuple[int, int, str]]:
        """The gradients of parameters that stay from an action on."""
        memory = self.step.segments[action.segment]
        for name, nbytes, time in memory.births if action.kind != "F" else ():
            at, there = self.until(action.segment, action.microbatch, time + 1)
            if name not in known and self.actions[at] == action:
                known.add(name)
                yield there, nbytes, "gradients"


def _times(memory: SegmentMemory, kind: str) -> tuple[NDArray[np.int64], NDArray[np.int64], int, int]:
    """Of an action: what is held at its times, what of it is kept for backward, and what is kept before and behind it."""
    n, kept, held = memory.steps, memory.kept, memory.held
    if kind == "F":
        return memory.inside[:n], memory.saved[:n], 0, kept
    if kind == "B":
        inside, saved = (np.array([kept, *each[n : 2 * n], held]) for each in (memory.inside, memory.saved))
        return inside, saved, kept, held
    if len(memory.inside) > 2 * n:
        return memory.inside[2 * n :], memory.saved[2 * n :], held, 0
    return np.array([held]), np.array([held]), held, 0
