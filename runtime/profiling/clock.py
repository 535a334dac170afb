"""A clock that says at every moment who is at work, and communicators that tell it.

    push(owner) ... pop()      somebody is at work within what somebody else does
    hand(owner)                the next one goes on at the same level

A mark is a time and who is at work from then on; everything else is computed from the marks when the step is over. An
owner is (kind, expression, round); the kinds are those of `autopar.ir.profile`.
"""

# ruff: noqa: D102  (the methods of a communicator are described once, in base.py)

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autopar.runtime.transport.base import Comm, Pieces, Work, pieces_of
from autopar.runtime.transport.forwarding import ForwardingComm

Owner = tuple[str, int | None, int]
OTHER: Owner = ("other", None, 0)
WAIT: Owner = ("wait", None, 0)
GRADIENTS: Owner = ("gradients", None, 0)
_MOVING = {"forward": "communication", "backward": "adjoint"}


@dataclass(slots=True)
class _Flight:
    """A sum of gradients under way."""

    bucket: int
    start: float
    end: float = 0.0
    exposed: float = 0.0


@dataclass(slots=True)
class _Step:
    """What a clock has noted of one step."""

    marks: list[tuple[float, Owner]] = field(default_factory=list)
    sent: dict[Owner, int] = field(default_factory=dict)
    flights: list[_Flight] = field(default_factory=list)

    def spans(self) -> Iterator[tuple[Owner, float, float]]:
        """Who was at work from when to when, in seconds from the beginning; one after another, without gaps."""
        zero = self.marks[0][0]
        for (start, owner), (end, _) in itertools.pairwise(self.marks):
            yield owner, start - zero, end - zero

    def seconds(self) -> dict[Owner, float]:
        """How long each was at work."""
        totals: dict[Owner, float] = {}
        for owner, start, end in self.spans():
            totals[owner] = totals.get(owner, 0.0) + end - start
        return totals

    @property
    def total(self) -> float:
        """The whole step."""
        return self.marks[-1][0] - self.marks[0][0]


class StepClock:
    """The marks of the step under way. `cuda` makes every mark wait for the device."""

    def __init__(self, cuda: bool = False) -> None:
        self._now = _synchronized if cuda else time.perf_counter
        self._stack: list[Owner] = [OTHER]
        self.step = _Step()

    @property
    def owner(self) -> Owner:
        """Who is at work."""
        return self._stack[-1]

    def start(self) -> None:
        """Begin a step."""
        self._stack = [OTHER]
        self.step = _Step()
        self.mark(OTHER)

    def mark(self, owner: Owner) -> float:
        """From now on `owner` is at work."""
        now = self._now()
        self.step.marks.append((now, owner))
        return now

    def push(self, owner: Owner) -> float:
        self._stack.append(owner)
        return self.mark(owner)

    def pop(self) -> float:
        self._stack.pop()
        return self.mark(self._stack[-1])

    def hand(self, owner: Owner) -> None:
        self._stack[-1] = owner
        self.mark(owner)

    @contextmanager
    def moving(self, sent: int) -> Iterator[None]:
        """A communication call of whoever is at work, which sends so many bytes."""
        kind, expression, turn = self.owner
        mover = (_MOVING.get(kind, kind), expression, turn)
        self.step.sent[mover] = self.step.sent.get(mover, 0) + sent
        self.push(mover)
        try:
            yield
        finally:
            self.pop()


def _synchronized() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


class TimedComm(ForwardingComm):
    """`inner`, whose blocking calls the clock is told. Bytes are those that a ring algorithm sends."""

    def __init__(self, inner: Comm, clock: StepClock) -> None:
        super().__init__(inner)
        self.clock = clock

    def all_reduce(self, tensor: Tensor) -> None:
        with self.clock.moving(2 * tensor.nbytes * (self.size - 1) // self.size):
            self._inner.all_reduce(tensor)

    def all_gather(self, tensor: Tensor, outs: Pieces) -> None:
        with self.clock.moving(tensor.nbytes * (self.size - 1)):
            self._inner.all_gather(tensor, outs)

    def reduce_scatter(self, parts: Pieces, out: Tensor) -> None:
        with self.clock.moving(self._sent(parts)):
            self._inner.reduce_scatter(parts, out)

    def all_to_all(self, sends: Pieces, recvs: Pieces) -> None:
        with self.clock.moving(self._sent(sends)):
            self._inner.all_to_all(sends, recvs)

    def exchange(self, sends: dict[int, Tensor], recvs: dict[int, Tensor]) -> None:
        with self.clock.moving(sum(tensor.nbytes for tensor in sends.values())):
            self._inner.exchange(sends, recvs)

    def broadcast(self, tensor: Tensor, root: int) -> None:
        with self.clock.moving(tensor.nbytes if root == self.rank else 0):
            self._inner.broadcast(tensor, root)

    def gather_objects(self, item: object) -> list[object]:
        with self.clock.moving(0):
            return self._inner.gather_objects(item)

    def barrier(self) -> None:
        with self.clock.moving(0):
            self._inner.barrier()

    def _sent(self, parts: Pieces) -> int:
        return sum(part.nbytes for i, part in enumerate(pieces_of(parts)) if i != self.rank)


class TimedBucketComm(TimedComm):
    """The communicator of one bucket of gradients, which tells the clock when its sum was under way."""

    def __init__(self, inner: Comm, clock: StepClock, bucket: int) -> None:
        super().__init__(inner, clock)
        self._bucket = bucket

    def start_all_reduce(self, tensor: Tensor) -> Work:
        start = self.clock.push(GRADIENTS)
        try:
            work = self._inner.start_all_reduce(tensor)
        finally:
            self.clock.pop()
        flight = _Flight(self._bucket, start)
        self.clock.step.flights.append(flight)
        return _TimedWork(work, self.clock, flight)


class _TimedWork(Work):
    def __init__(self, work: Work, clock: StepClock, flight: _Flight) -> None:
        self._work = work
        self._clock = clock
        self._flight = flight

    def wait(self) -> None:
        start = self._clock.push(WAIT)
        try:
            self._work.wait()
        finally:
            self._flight.end = self._clock.pop()
        self._flight.exposed += self._flight.end - start

    def test(self) -> bool:
        done = self._work.test()
        if done and not self._flight.end:
            self._flight.end = time.perf_counter()
        return done
