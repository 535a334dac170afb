"""A communicator that notes every call before it makes it, and in checked mode compares it with the other ranks first.

    watch(comm)  ->  the same ranks and calls

flight_recorder.py keeps the notes, watchdog.py reads them, call_fingerprint.py compares.

Under MPI the notes go to the flight recorder of this host, from which the watchdog tells who waits for whom. Simulated ranks
need no watchdog, since the simulation sees a deadlock itself. A call costs one walk up a few frames of the stack and
three writes to memory.
"""

# ruff: noqa: D102  (the methods of a communicator are described once, in base.py)

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from autopar.jobs import flight_recorder
from autopar.jobs.environment import settings
from autopar.jobs.flight_recorder import FlightRecorder
from autopar.runtime.diagnostics import call_fingerprint, call_site, watchdog
from autopar.runtime.diagnostics.call_fingerprint import Fingerprint
from autopar.runtime.diagnostics.call_site import CallSite
from autopar.runtime.transport.base import Comm, Counter, Pieces, Work, pieces_of
from autopar.runtime.transport.forwarding import ForwardingComm
from autopar.runtime.transport.world import simulated_world

_SCHEDULE = CallSite("message", "the schedule", "")
_QUEUE = CallSite("draw", "the queue of micro-batches", "")


def watch(comm: Comm) -> Comm:
    """`comm`, watched and checked as the environment says. Collective. Raises ConfigError, ProgramMismatch."""
    if comm.size == 1 or isinstance(comm, WatchedComm):
        return comm
    job = settings()
    simulated = simulated_world() is not None
    notes = None if simulated else watchdog.start(comm, job)
    if notes is None and not job.check:
        return comm
    group = _NamedGroup(_key("world"), tuple(range(comm.size)), "all ranks")
    return WatchedComm(comm, group, notes, job.check)


def label(comm: Comm, text: str) -> Comm:
    """`comm`, called by that name in messages."""
    if isinstance(comm, WatchedComm):
        comm.label = text
    return comm


def first_to_fail(comm: Comm) -> bool:
    """Whether this rank is the first of its host to ask; whoever asks is about to say why the job ends."""
    return not isinstance(comm, WatchedComm) or comm.claim()


@dataclass(frozen=True, slots=True)
class _NamedGroup:
    """Which ranks these are: a number that is the same on all of them, and no other group's; their world ranks."""

    key: int
    members: tuple[int, ...]
    label: str


class WatchedComm(ForwardingComm):
    """`inner`, with its calls noted in `notes`, and compared if `check`."""

    def __init__(self, inner: Comm, group: _NamedGroup, notes: FlightRecorder | None, check: bool) -> None:
        super().__init__(inner)
        self._group = group
        self._notes = notes
        self._words = inner.split(0, inner.rank) if check else None  # comparisons never meet what they compare
        self._unsettled: deque[_Comparison] = deque()
        self._splits = 0
        self.label = group.label
        self._count = None if notes is None else notes.join(group.key)

    def empty(self, numel: int, dtype: torch.dtype) -> Tensor:
        with self._noted("empty", None, str(numel)):
            return self._inner.empty(numel, dtype)

    def release(self, tensor: Tensor) -> None:
        with self._noted("release", tensor):
            self._inner.release(tensor)

    def all_reduce(self, tensor: Tensor) -> None:
        self._begin("all_reduce", tensor, (tensor,))
        try:
            self._inner.all_reduce(tensor)
        finally:
            self._end()

    def start_all_reduce(self, tensor: Tensor) -> Work:
        site = call_site.here(sys._getframe(1))
        check = None
        if self._words is not None:
            check = _Comparison(call_fingerprint.take("start_all_reduce", site, (tensor,), ()), self._words)
            self._unsettled.append(check)
        number = self._note("start_all_reduce", site, tensor)
        try:
            return _WatchedWork(self, self._inner.start_all_reduce(tensor), tensor, number, check)
        finally:
            self._end()

    def all_gather(self, tensor: Tensor, outs: Pieces) -> None:
        self._begin("all_gather", tensor, (tensor,), outs)
        try:
            self._inner.all_gather(tensor, outs)
        finally:
            self._end()

    def reduce_scatter(self, parts: Pieces, out: Tensor) -> None:
        self._begin("reduce_scatter", out, parts)
        try:
            self._inner.reduce_scatter(parts, out)
        finally:
            self._end()

    def all_to_all(self, sends: Pieces, recvs: Pieces) -> None:
        even = isinstance(sends, Tensor)
        self._begin("all_to_all", sends[self.rank], sends, recvs, "even" if even else "")
        try:
            self._inner.all_to_all(sends, recvs)
        finally:
            self._end()

    def exchange(self, sends: dict[int, Tensor], recvs: dict[int, Tensor]) -> None:
        site = call_site.here(sys._getframe(1))
        if self._notes is not None and self._count is not None:
            peers = tuple(self._group.members[place] for place in sorted({*sends, *recvs}))
            first = next(iter((*recvs.values(), *sends.values())), None)
            self._notes.repeat(self._count, _text("exchange", site, *_kind(first), self.label, peers), 0)
        try:
            if self._words is not None:
                self._compare_messages(self._words, site, sends, recvs)
            self._inner.exchange(sends, recvs)
        finally:
            self._end()

    def start_send(self, tensor: Tensor, to: int, tag: int, what: str) -> Work:
        site = call_site.here(sys._getframe(1))
        letter = None
        if self._words is not None:
            sent = call_fingerprint.letter(call_fingerprint.take("message", _SCHEDULE, (), ()), tensor)
            letter = self._words.start_send(sent, to, tag, what), lambda: None
        work = self._inner.start_send(tensor, to, tag, what)
        return _WatchedMessage(self, work, (f"send {what}", site, tensor, to), letter)

    def start_receive(self, tensor: Tensor, source: int, tag: int, what: str) -> Work:
        site = call_site.here(sys._getframe(1))
        letter = None
        if self._words is not None:
            expected = call_fingerprint.letter(call_fingerprint.take("message", _SCHEDULE, (), ()), tensor)
            got = torch.empty_like(expected)
            work = self._words.start_receive(got, source, tag, what)
            letters = {source: expected}, {source: got}
            letter = work, lambda: call_fingerprint.open_letters(*letters, self._group.members, self.rank, what)
        work = self._inner.start_receive(tensor, source, tag, what)
        return _WatchedMessage(self, work, (f"receive {what}", site, tensor, source), letter)

    def note(self, what: str, file: str, line: int) -> None:
        if self._notes is not None and self._count is not None:
            self._notes.repeat(self._count, _said(what, call_site.at(file, line), (), None, "", ()), 0)
            self._notes.leave()

    def broadcast(self, tensor: Tensor, root: int) -> None:
        self._begin("broadcast", tensor, (tensor,), (), f"from {self._group.members[root]}" if self._words else "")
        try:
            self._inner.broadcast(tensor, root)
        finally:
            self._end()

    def gather_objects(self, item: object) -> list[object]:
        with self._noted("gather_objects"):
            return self._inner.gather_objects(item)

    def split(self, color: int, key: int) -> Comm:
        with self._noted("split"):
            inner = self._inner.split(color, key)
            members = tuple(int(str(member)) for member in inner.gather_objects(self._group.members[self.rank]))
        name = _key(f"{self._group.key} {self._splits} {color}")
        self._splits += 1
        group = _NamedGroup(name, members, f"ranks {', '.join(map(str, members))}")
        return WatchedComm(inner, group, self._notes, self._words is not None)

    def counter(self) -> Counter:
        with self._noted("counter"):
            return _WatchedCounter(self, self._inner.counter())

    def barrier(self) -> None:
        with self._noted("barrier"):
            self._inner.barrier()

    def free(self) -> None:
        if self._words is not None:
            self._words.free()
        self._inner.free()
        if self._notes is not None and self._count is not None:
            self._notes.quit(self._count)

    def claim(self) -> bool:
        """Whether this is the first rank of the host to ask."""
        return self._notes is None or self._notes.claim()

    @contextmanager
    def _noted(self, call: str, tensor: Tensor | None = None, detail: str = "") -> Iterator[None]:
        """For calls outside of the training step, where a microsecond does not matter."""
        site = call_site.here(sys._getframe(3))
        self._note(call, site, tensor)
        try:
            self._compare(call_fingerprint.take(call, site, () if tensor is None else (tensor,), (), detail))
            yield
        finally:
            self._end()

    def _begin(self, call: str, tensor: Tensor, gives: Pieces, takes: Pieces = (), detail: str = "") -> None:
        site = call_site.here(sys._getframe(2))
        if self._notes is not None and self._count is not None:
            self._notes.enter(self._count, _text(call, site, tensor.shape, tensor.dtype, self.label, ()))
        if self._words is not None:
            try:
                sent, taken = (pieces_of(tensors) for tensors in (gives, takes))
                self._compare(call_fingerprint.take(call, site, sent, taken, detail))
            except BaseException:
                self._end()
                raise

    def _note(self, call: str, site: CallSite, tensor: Tensor | None) -> int:
        """`_begin` for the calls that are compared elsewhere."""
        if self._notes is None or self._count is None:
            return 0
        return self._notes.enter(self._count, _text(call, site, *_kind(tensor), self.label, ()))

    def _note_wait(self, site: CallSite, tensor: Tensor, number: int) -> None:
        if self._notes is not None and self._count is not None:
            self._notes.repeat(self._count, _text("wait", site, *_kind(tensor), self.label, ()), number)

    def _note_message(self, what: str, site: CallSite, tensor: Tensor | None, other: int) -> None:
        if self._notes is not None and self._count is not None:
            peers = (self._group.members[other],)
            self._notes.repeat(self._count, _said(what, site, *_kind(tensor), self.label, peers), 0)

    def _end(self) -> None:
        if self._notes is not None:
            self._notes.leave()

    def _compare(self, mine: Fingerprint) -> None:
        self._settle()
        if self._words is not None:
            every = list(map(call_fingerprint.unpack, self._words.gather_objects(call_fingerprint.pack(mine))))
            call_fingerprint.compare(every, self._group.members, self.label)

    def _settle(self, last: _Comparison | None = None) -> None:
        """Finish the comparisons of sums under way in the order of their beginning, all or those up to `last`.

        Only here are words exchanged about them, never when a rank merely looks: it would wait for others that may be
        waiting for it over another group.
        """
        while self._unsettled and (last is None or last.open):
            first = self._unsettled.popleft()
            first.wait()
            if not first.fits:
                self._unsettled.clear()
                self._compare(first.mine)

    def _compare_messages(
        self, words: Comm, site: CallSite, sends: dict[int, Tensor], recvs: dict[int, Tensor]
    ) -> None:
        mine = call_fingerprint.take("exchange", site, (), ())
        expected = {source: call_fingerprint.letter(mine, tensor) for source, tensor in recvs.items()}
        got = {source: torch.empty_like(letter) for source, letter in expected.items()}
        words.exchange({to: call_fingerprint.letter(mine, tensor) for to, tensor in sends.items()}, got)
        call_fingerprint.open_letters(expected, got, self._group.members, self.rank, self.label)


class _Comparison:
    """A comparison that waits for nobody: a sum of numbers goes ahead of the sum that is checked."""

    def __init__(self, mine: Fingerprint, words: Comm) -> None:
        self.mine = mine
        self.open = True
        self._ranks = words.size
        self._numbers = call_fingerprint.summary(mine)
        self._work = words.start_all_reduce(self._numbers)

    def wait(self) -> None:
        self._work.wait()
        self.open = False

    def test(self) -> bool:
        """Whether the numbers are there, and fit; what does not fit stays as it is until it is waited for."""
        return not self.open or (self._work.test() and self.fits)

    @property
    def fits(self) -> bool:
        return call_fingerprint.alike(self._numbers, self._ranks)


class _WatchedCounter(Counter):
    """A number of which every draw is noted: the first rank serves it."""

    def __init__(self, comm: WatchedComm, counter: Counter) -> None:
        self._comm = comm
        self._counter = counter

    def draw(self) -> int:
        self._comm._note_message("draw", _QUEUE, None, 0)
        try:
            return self._counter.draw()
        finally:
            self._comm._end()

    def free(self) -> None:
        self._counter.free()


class _WatchedMessage(Work):
    """A message that is to come or to go to another rank; waiting for it is noted."""

    def __init__(
        self,
        comm: WatchedComm,
        work: Work,
        note: tuple[str, CallSite, Tensor, int],
        letter: tuple[Work, Callable[[], None]] | None,
    ) -> None:
        self._comm = comm
        self._work = work
        self._note = note
        self._letter = letter  # which goes ahead of it in checked mode, and what looks at it

    def wait(self) -> None:
        self._comm._note_message(*self._note)
        try:
            if self._letter is not None:
                self._letter[0].wait()
                self._letter[1]()
            self._work.wait()
        finally:
            self._comm._end()

    def test(self) -> bool:
        return (self._letter is None or self._letter[0].test()) and self._work.test()


class _WatchedWork(Work):
    """A sum under way; waiting for it is noted under the number that it was begun with."""

    def __init__(self, comm: WatchedComm, work: Work, tensor: Tensor, number: int, check: _Comparison | None) -> None:
        self._comm = comm
        self._work = work
        self._tensor = tensor
        self._number = number
        self._check = check

    def wait(self) -> None:
        self._comm._note_wait(call_site.here(sys._getframe(1)), self._tensor, self._number)
        try:
            if self._check is not None:
                self._comm._settle(self._check)
            self._work.wait()
        finally:
            self._comm._end()

    def test(self) -> bool:
        return (self._check is None or self._check.test()) and self._work.test()


def _kind(tensor: Tensor | None) -> tuple[tuple[int, ...], torch.dtype | None]:
    return ((), None) if tensor is None else (tensor.shape, tensor.dtype)


@lru_cache(maxsize=4096)
def _text(
    call: str, site: CallSite, shape: tuple[int, ...], dtype: torch.dtype | None, over: str, peers: tuple[int, ...]
) -> bytes:
    what = f"wait for {site.what or 'a sum'}" if call == "wait" else site.what or call
    return _said(what, site, shape, dtype, over, peers)


@lru_cache(maxsize=4096)
def _said(
    what: str, site: CallSite, shape: tuple[int, ...], dtype: torch.dtype | None, over: str, peers: tuple[int, ...]
) -> bytes:
    tensor = "" if dtype is None else f"{str(dtype).removeprefix('torch.')} {list(shape)}"
    return flight_recorder.text(what, site.where, site.source, tensor, over, peers)


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
