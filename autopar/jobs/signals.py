"""A rank that is asked to stop: it hears a signal at once, also while it waits inside MPI, and acts on it between two steps.

SIGTERM, SIGUSR1 and SIGINT mean the same. A first one is only noted: the ranks agree on it at the end of their step. Batch
systems, the launcher and mpiexec may each pass one on, so that all which arrive within a second count as one. A later
one ends the process at once, and with it the job. So does the end of a launcher on this host that was killed itself.

Python runs a handler only when a call into MPI has returned, which for a rank that waits for a peer may be never; what is
written to the file of `signal.set_wakeup_fd` is written at once, and a thread reads it.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from autopar.jobs import failure_files
from autopar.jobs.failure_files import Failure
from autopar.jobs.flight_recorder import process_state, started

STOPPED = 85
"""The status of a job that was asked to stop, and did so after a step: it can go on with ``--resume``."""
WORD = "stopped"
"""The file in the launcher's folder that says so."""
LAUNCHER, BEGUN = "AUTOPAR_LAUNCHER", "AUTOPAR_BEGUN"
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_TOGETHER = 1.0  # seconds within which signals are one request
_LOOK = 1.0  # seconds from one look at the launcher to the next


class StopRequests:
    """What this rank was asked for: `reason` is empty until it is asked to stop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.reason = ""
        self._clock = clock
        self._first = 0.0

    def heard(self, number: int) -> bool:
        """Note a signal; whether it asks to end at once."""
        if not self.reason:
            self._first = self._clock()
            self.reason = f"signal {signal.Signals(number).name}"
            return False
        return self._clock() - self._first > _TOGETHER


@contextmanager
def listening(rank: int) -> Iterator[StopRequests]:
    """Hear signals while the context lasts. Only a process's main thread can; elsewhere, as in a simulation, nothing is heard."""
    requests = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    before = {number: signal.signal(number, _noted_elsewhere) for number in STOPPING}
    waker = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    process = os.getpid()
    os.register_at_fork(after_in_child=lambda: _usual(process, before))
    over = threading.Event()
    threading.Thread(target=_listen, args=(ours, requests, rank, over), name="autopar signals", daemon=True).start()
    try:
        yield requests
    finally:
        over.set()
        signal.set_wakeup_fd(waker)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()


def announce() -> None:
    """Let the launcher know, once all ranks listen, that this process does."""
    place = failure_files.folder()
    if place is not None:
        (place / f"listens-{os.getpid()}").touch()


def leave_stopped() -> bool:
    """Leave word for the launcher that the job has stopped as it was asked to; whether there is one on this machine."""
    place = failure_files.folder()
    if place is not None:
        (place / WORD).touch()
    return place is not None


def launcher_word() -> str:
    """How ranks know the process that calls this for their launcher."""
    return f"{socket.gethostname()} {os.getpid()} {started(os.getpid())}"


def _noted_elsewhere(*_: object) -> None:
    """Python's part of a signal: the thread has noted it."""


def _usual(listener: int, before: Mapping[signal.Signals, object]) -> None:
    """A process that the rank has forked, as a loader of data does, is ended by signals as usual."""
    if os.getppid() == listener and signal.getsignal(signal.SIGTERM) is _noted_elsewhere:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal has returned


def _listen(ours: socket.socket, requests: StopRequests, rank: int, over: threading.Event) -> None:
    host, process, born = [*os.environ.get(LAUNCHER, "").split(), "", "0", "0"][:3]
    launcher = (int(process), int(born)) if host == socket.gethostname() else (0, 0)
    while not over.is_set():
        ready, _, _ = select.select([ours], [], [], _LOOK)
        for number in ours.recv(64) if ready else b"":
            if number in STOPPING and requests.heard(number):
                _end(rank, f"a second signal, {signal.Signals(number).name}, ended the job at once", 128 + number)
        if ready and over.is_set():
            break
        if launcher[1] and process_state(*launcher) == "gone":
            if (place := failure_files.folder()) is not None:
                shutil.rmtree(place, ignore_errors=True)
            os._exit(128 + signal.SIGKILL)
    ours.close()


def _end(rank: int, why: str, status: int) -> None:
    if failure_files.folder() is not None:
        failure_files.write(Failure(rank, time.time(), why, True))
    os._exit(status)
