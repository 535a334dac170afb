"""What is shown last of a job that failed: the first cause that a rank has told, else what its end says by itself."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from autopar.jobs import deadlocks, failure_files, flight_recorder
from autopar.jobs.flight_recorder import RankRecord

# MPICH names a process; Open MPI names a rank, in lines that are broken anywhere between words.
_KILLED = re.compile(
    rb"process\s+rank\s+(?P<rank>\d+)\s+with\s+PID|Process\s+name:\s+\[[^\]]*,\s*(?P<named>\d+)\]|PID\s+(?P<process>\d+)"
)
_SIGNAL = re.compile(rb"\bsignal:?\s+(\d+)|\(signal (\d+)\)")
_HINTS = {
    "SIGKILL": "the system ends a process so where memory is short: its log (dmesg) says so; use fewer rows or more ranks",
    "SIGSEGV": "a native library crashed: torch, MPI, or an extension of the model",
    "SIGFPE": "a native library crashed: torch, MPI, or an extension of the model",
    "SIGILL": "a native library was built for another processor",
    "SIGTERM": "somebody, or the batch system at its time limit, has ended it",
    "SIGHUP": "the terminal or the connection it was started from is gone",
}


def account(folder: Path, status: int, output: bytes, seen: Sequence[RankRecord]) -> str:
    """Why a job ended: `output` is the end of what it printed, `seen` what its ranks have noted on this host."""
    cause = failure_files.first(folder)
    if cause is not None:
        return f"\n{cause.text}" if cause.alike else f"\nthe job ended because rank {cause.rank} failed:\n{cause.text}"
    number = _signal(status, output)
    for rank in _named(folder, output):
        place = [f", {deadlocks.last_seen(record)}" for record in seen if record.rank == rank]
        how = f"was ended by {_name(number)}" if number else "was killed or ended without a word"
        said = f"\nthe job ended because rank {rank} {how} (status {status}){''.join(place)}"
        return "\n".join([said, *_hint(number)])
    lines = [f"  rank {record.rank}: {deadlocks.last_seen(record)}" for record in lost(seen)]
    if status < 0:
        said = f"\nmpiexec itself was ended by {_name(-status)}"
    else:
        by = f" ({_name(number)})" if number else ""
        said = f"\nthe job ended with status {status}{by}"
    if lines:
        return "\n".join(
            [f"{said}; ranks ended or were ended without a word. They were last seen", *lines, *_hint(number)]
        )
    if output.strip():
        return "\n".join([f"{said}; its own output above says why", *_hint(number)])
    look = "  mpiexec printed nothing: are the hosts spelled right, can they be reached, and does it start `hostname`?"
    return "\n".join([f"{said}, before any rank said a word", *(_hint(number) or [look])])


def lost(seen: Sequence[RankRecord]) -> list[RankRecord]:
    """The ranks that are gone without having come to an end."""
    return [record for record in seen if record.state == "gone"]


def named_ranks(folder: Path, output: bytes) -> tuple[int, ...]:
    """The ranks that MPI's own account of the end names, each once."""
    return tuple(dict.fromkeys(_named(folder, output)))


def _named(folder: Path, output: bytes) -> Iterator[int]:
    """The ranks that MPI's own account of the end names, the first one first."""
    for match in _KILLED.finditer(output):
        rank = match["rank"] or match["named"]
        known = int(rank) if rank else failure_files.rank_of_process(folder, int(match["process"]))
        if known is not None:
            yield known


def _signal(status: int, output: bytes) -> int:
    """The signal that ended a rank or mpiexec, 0 where none is known of."""
    numbers = [int(first or second) for first, second in _SIGNAL.findall(output)]
    number = -status if status < 0 else numbers[-1] if numbers else status - 128 if status > 128 else 0
    return number if number in {Signal.value for Signal in signal.Signals} else 0


def _name(number: int) -> str:
    return signal.Signals(number).name


def _hint(number: int) -> list[str]:
    """A line on what most often is behind a signal."""
    if number and _name(number) == "SIGBUS":
        place = flight_recorder.memory_folder()
        free = f" ({shutil.disk_usage(place).free / 2**20:.0f} MiB are free in {place})" if place else ""
        return [f"  shared memory was too small{free}: give this machine or container more, as by docker's --shm-size"]
    return [f"  {_HINTS[_name(number)]}"] if number and _name(number) in _HINTS else []
