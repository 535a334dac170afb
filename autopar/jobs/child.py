"""mpiexec as a child of its launcher: what it prints is passed on, signals reach its ranks, and it does not outlive the launcher.

A launcher that is asked to stop, by SIGTERM, SIGUSR1 or an interrupt, asks the ranks of a job that listens; these end after
their step. Asked again, and for a job that does not listen at once, it ends the job. mpiexec stands in a process group of its
own, so that Ctrl-C on a terminal is the launcher's to pass on; suspending the launcher suspends mpiexec too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from autopar.jobs import flight_recorder
from autopar.jobs.signals import STOPPING

_KEPT = 65536  # bytes of output that are searched for MPI's own account of the end
_PATIENCE = 3.0  # seconds that mpiexec is given for ending its ranks, before it is asked again
_ELSEWHERE = 30.0  # seconds after which ranks that are not on this host are taken to listen
_PDEATHSIG = 1  # of Linux's prctl.h


@dataclass(frozen=True, slots=True)
class Ended:
    """How mpiexec ended: its status, the end of what it printed, and the signal by which this process ended it at once."""

    status: int
    output: bytes
    stopped: str


def run(line: Sequence[str], environment: Mapping[str, str], folder: Path, *, listens: bool) -> Ended:
    """Run mpiexec with its output passed through. `listens`: its ranks stop after a step when they are asked to."""
    kept = bytearray()
    stopped = ""
    with (
        _signals() as hold,
        subprocess.Popen(
            line,
            env=dict(environment),
            stdin=subprocess.DEVNULL if sys.stdin is not None and sys.stdin.isatty() else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            preexec_fn=_with_parent(),  # noqa: PLW1509 (it makes two system calls and takes no lock)
        ) as job,
    ):
        assert job.stdout is not None
        assert job.stderr is not None
        hold(job, folder if listens else None)
        pairs = [(job.stdout, sys.stdout), (job.stderr, sys.stderr)]
        threads = [threading.Thread(target=_pass_on, args=(pipe, stream, kept)) for pipe, stream in pairs]
        for thread in threads:
            thread.start()
        try:
            status = job.wait()
        except KeyboardInterrupt as raised:
            stopped = str(raised) or "an interrupt"
            status = _end(job, folder if listens else None)
        for thread in threads:
            thread.join()
    return Ended(status, bytes(kept), stopped)


def _with_parent() -> Callable[[], None] | None:
    """What makes the child end when this process is killed, where the system can: on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def tie() -> None:
        prctl(_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return tie


@contextmanager
def _signals() -> Iterator[Callable[[subprocess.Popen[bytes], Path | None], None]]:
    """Signals of this process are the job's. Only the main thread may say so.

    Gives the function that is told the job, and the folder in which its ranks say that they listen, if they do.
    """
    job: subprocess.Popen[bytes] | None = None
    folder: Path | None = None
    asked = False

    def hold(started: subprocess.Popen[bytes], where: Path | None) -> None:
        nonlocal job, folder
        job, folder = started, where

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        said = f"signal {signal.Signals(number).name}"
        if folder is None or asked or job is None:
            raise KeyboardInterrupt("an interrupt" if number == signal.SIGINT else said)
        asked = True
        print(f"\nstopping after this step, by {said}; once more ends the job at once", file=sys.stderr, flush=True)
        threading.Thread(target=_ask, args=(job, folder), daemon=True).start()

    def suspend(number: int, frame: FrameType | None) -> None:
        for one, process in ((number, job), (signal.SIGSTOP, None), (signal.SIGCONT, job)):
            with suppress(ProcessLookupError):
                os.kill(os.getpid() if process is None else process.pid, one)

    if threading.current_thread() is not threading.main_thread():
        yield hold
        return
    before = {number: signal.signal(number, stop) for number in STOPPING}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, suspend)
    try:
        yield hold
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ask(job: subprocess.Popen[bytes], folder: Path) -> None:
    """Ask the ranks to stop: those of this host, of which one would do, as soon as they listen; else all, through mpiexec."""
    ticks = 0.0
    while job.poll() is None:
        if here := _processes(folder, "listens"):
            for process in here:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGUSR1)
            return
        if ticks >= _ELSEWHERE and not _processes(folder, "process"):
            job.send_signal(signal.SIGUSR1)
            return
        with suppress(subprocess.TimeoutExpired):
            job.wait(0.05)
        ticks += 0.05


def _processes(folder: Path, word: str) -> list[int]:
    """The ranks' processes on this host that have left this word in the launcher's folder."""
    return [int(path.name.removeprefix(f"{word}-")) for path in folder.glob(f"{word}-*")]


def _end(job: subprocess.Popen[bytes], listens: Path | None) -> int:
    """End mpiexec, which passes a first interrupt on, ends its ranks at the second, and is killed after that.

    Ranks that listen would only note an interrupt; those of this host are killed.
    """
    for record in flight_recorder.read_folder(listens) if listens is not None else ():
        flight_recorder.kill(record)
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            job.send_signal(number)
            return job.wait(_PATIENCE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            continue
    return job.wait()


def _pass_on(pipe: BinaryIO, stream: object, kept: bytearray) -> None:
    target: BinaryIO | None = getattr(stream, "buffer", None)
    while chunk := os.read(pipe.fileno(), 65536):
        kept += chunk
        del kept[:-_KEPT]
        if target is not None:
            target.write(chunk)
            target.flush()
        else:
            stream.write(chunk.decode(errors="replace"))  # type: ignore[attr-defined]  # a captured text stream
