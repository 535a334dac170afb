"""What every rank of a host is doing, in memory that all of them can read: even of a rank that cannot speak any more.

Every rank has an area of a small mapped file: its process, how many calls it has entered in each group of ranks, and a
ring of its last calls, each with its text, its group, its number in the group, and when it began. A call costs its rank
four small writes to memory. Readers take no lock: they look twice where it matters.

    area     header | (group, calls entered) x GROUPS | call x CALLS
    header   process, when that process started, 1 once it has ended by itself, rank; then what every call writes:
             calls so far, 1 while in a call, when the last call ended
    call     when it began, group, number, length of text, text

The file lies in the launcher's folder if there is one, so that the launcher can read it when all ranks are gone;
otherwise it has no name any more by the time that it is used.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import struct
import tempfile
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

NAME = "journal"
GROUPS, CALLS, TEXT = 64, 10, 472
_HEADER, _ENTRY, _CALL = struct.Struct("=6qd"), struct.Struct("=2q"), struct.Struct(f"=d3q{TEXT}s")
_ONE, _TWO, _DONE = struct.Struct("=q"), struct.Struct("=2q"), struct.Struct("=2qd")
_FIRST_CALL = _HEADER.size + GROUPS * _ENTRY.size
AREA = _FIRST_CALL + CALLS * _CALL.size
_ENDED, _NOW = 16, 32  # offsets in the header


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call of a rank. `number` 0 means that only `peers` are waited for, not the group."""

    what: str
    where: str
    source: str
    tensor: str
    over: str
    peers: tuple[int, ...]
    group: int
    number: int
    begin: float

    def __str__(self) -> str:
        place = f"{self.what} at {self.where}" if self.where else self.what
        return ", ".join(part for part in (place, self.tensor, self.over and f"over {self.over}") if part)


@dataclass(frozen=True, slots=True)
class RankRecord:
    """A rank as its area shows it: `state` is running, stopped, ended or gone; `calls` the last ones, newest first.

    `since` is when it entered the call in which it is, or left its last one.
    """

    rank: int
    process: int
    born: int
    state: str
    inside: bool
    since: float
    entered: dict[int, int]
    calls: tuple[RecordedCall, ...]

    @property
    def waiting(self) -> RecordedCall | None:
        """The call that this rank is in."""
        return self.calls[0] if self.inside and self.calls else None


class CallCounter:
    """How many calls of one group of ranks this rank has entered, and where that is written."""

    __slots__ = ("count", "key", "offset")

    def __init__(self, key: int, offset: int) -> None:
        self.key = key
        self.offset = offset
        self.count = 0


class FlightRecorder:
    """The areas of this host's ranks, and the writing of this rank's own."""

    def __init__(self, file: Path, place: int, places: int, rank: int) -> None:
        self._descriptor = os.open(file, os.O_RDWR)
        self.memory = mmap.mmap(self._descriptor, places * AREA)
        self.places = places
        start = place * AREA
        self._groups = start + _HEADER.size
        self._used: set[int] = set()
        self._calls = tuple(start + _FIRST_CALL + i * _CALL.size for i in range(CALLS))
        self._now = start + _NOW
        self._so_far = 0
        self.closed = threading.Event()
        _HEADER.pack_into(self.memory, start, os.getpid(), started(os.getpid()), 0, rank, 0, 0, time.monotonic())
        left = (self.memory, start + _ENDED, self._descriptor, self.closed)
        weakref.finalize(self, _leave, *left)  # at exit at the latest

    def join(self, key: int) -> CallCounter:
        """Count calls in this group from now on. Where there are too many groups, its calls are noted uncounted."""
        place = next((i for i in range(GROUPS) if i not in self._used), None)
        if place is None:
            return CallCounter(key, 0)
        self._used.add(place)
        group = CallCounter(key, self._groups + place * _ENTRY.size)
        _ENTRY.pack_into(self.memory, group.offset, key, 0)
        return group

    def quit(self, group: CallCounter) -> None:
        """The group is no more."""
        if group.offset:
            _ENTRY.pack_into(self.memory, group.offset, 0, 0)
            self._used.discard((group.offset - self._groups) // _ENTRY.size)
            group.offset = 0

    def enter(self, group: CallCounter, text: bytes) -> int:
        """Note that the next call of a group begins; returns its number."""
        number = 0
        if group.offset:
            number = group.count = group.count + 1
            _ONE.pack_into(self.memory, group.offset + 8, number)
        self.repeat(group, text, number)
        return number

    def repeat(self, group: CallCounter, text: bytes, number: int) -> None:
        """Note that this rank is in a call that was begun before, or with `number` 0 in one that is not the group's."""
        so_far = self._so_far
        self._so_far = so_far + 1
        at = self._calls[so_far % CALLS]
        _CALL.pack_into(self.memory, at, time.monotonic(), group.key, number, len(text), text)
        _TWO.pack_into(self.memory, self._now, so_far + 1, 1)  # last: before, nobody thinks us waiting

    def leave(self) -> None:
        """Note that the call has ended."""
        _DONE.pack_into(self.memory, self._now, self._so_far, 0, time.monotonic())

    def waiting(self) -> int:
        """How many calls this rank has entered, if it is in one now; otherwise 0."""
        so_far, inside = _TWO.unpack_from(self.memory, self._now)
        return int(so_far) if inside else 0

    def claim(self) -> bool:
        """Whether this is the first rank of the host to ask."""
        import fcntl

        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def memory_folder() -> Path:
    """Where files lie in memory rather than on a disk, if there is such a place."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def make(folder: Path | None, ranks: int) -> Path:
    """A new file for this many ranks."""
    descriptor, name = tempfile.mkstemp(prefix=f"{NAME}-", dir=folder or memory_folder())
    try:
        os.truncate(descriptor, ranks * AREA)
    finally:
        os.close(descriptor)
    return Path(name)


def text(what: str, where: str, source: str, tensor: str, over: str, peers: tuple[int, ...]) -> bytes:
    """How a call is described in the file; where that is too long, the line's text is cut."""
    for keep in (100, 40, 0):
        said = json.dumps([what[:100], where[-80:], source[:keep], tensor[:80], over[:40], peers[:16]]).encode()
        if len(said) <= TEXT:
            return said
    return json.dumps([what[:40], where[-60:], "", "", "", ()]).encode()


def read(memory: mmap.mmap | bytes) -> list[RankRecord]:
    """All areas, by rank."""
    seen = [_read(memory, start) for start in range(0, len(memory) - AREA + 1, AREA)]
    return sorted((record for record in seen if record.process), key=lambda record: record.rank)


def read_folder(folder: Path) -> list[RankRecord]:
    """All areas of the file that the ranks under this launcher's folder have shared."""
    file = next(folder.glob(f"{NAME}-*"), None)
    return [] if file is None else read(file.read_bytes())


def _read(memory: mmap.mmap | bytes, start: int) -> RankRecord:
    process, born, ended, rank, so_far, inside, left = _HEADER.unpack_from(memory, start)
    state = "ended" if ended else process_state(process, born)
    entries = [_ENTRY.unpack_from(memory, start + _HEADER.size + i * _ENTRY.size) for i in range(GROUPS)]
    calls = []
    for i in range(so_far - 1, max(so_far - CALLS, 0) - 1, -1):
        call = _read_call(memory, start + _FIRST_CALL + i % CALLS * _CALL.size)
        calls += [call] if call is not None else []
    entered = {group: count for group, count in entries if group}
    since = calls[0].begin if inside and calls else left
    return RankRecord(rank, process, born, state, bool(inside), since, entered, tuple(calls))


def _read_call(memory: mmap.mmap | bytes, at: int) -> RecordedCall | None:
    begin, group, number, length, text = _CALL.unpack_from(memory, at)
    try:
        what, where, source, tensor, over, peers = json.loads(text[:length])
    except ValueError:
        return None  # it is being written
    return RecordedCall(what, where, source, tensor, over, tuple(peers), group, number, begin)


def process_state(process: int, born: int) -> str:
    """Whether the process that started then is running, stopped or gone; running where that cannot be known."""
    if not born:
        return "running"
    said = _status(process)
    if not said or int(said[19]) != born or said[0] in ("Z", "X"):
        return "gone"
    return "stopped" if said[0] in ("T", "t") else "running"


def kill(record: RankRecord) -> None:
    """Kill a rank that is still there: a stopped one hears nothing else."""
    if record.born and process_state(record.process, record.born) != "gone":
        with contextlib.suppress(ProcessLookupError):  # it may have come to its end just now
            os.kill(record.process, signal.SIGKILL)


def started(process: int) -> int:
    """When a process of this host started, in ticks since the host did; 0 where that cannot be known."""
    said = _status(process)
    return int(said[19]) if said else 0


def _status(process: int) -> list[str]:
    """The fields of Linux's own account of a process, from its state on."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _leave(memory: mmap.mmap, at: int, descriptor: int, closed: threading.Event) -> None:
    closed.set()
    _ONE.pack_into(memory, at, 1)
    os.close(descriptor)
