"""Ends a job in which a rank waits too long, or in vain, and says who waits for whom in which line of the program.

One thread per rank looks now and then at how long its own rank has been in its call. Beyond the limit, or a few seconds
into a wait that nothing can end any more, the first rank of a host to notice gives an account of all ranks of the host,
and the job is aborted with status 75. Time in which the whole job was suspended does not count.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from pathlib import Path

from autopar.errors import ProgramMismatch, refusal
from autopar.jobs import deadlocks, failure_files, flight_recorder
from autopar.jobs.environment import CHECK, TIMEOUT, JobSettings
from autopar.jobs.flight_recorder import FlightRecorder
from autopar.runtime.diagnostics import failure
from autopar.runtime.transport.base import Comm

STATUS = 75
_VAIN = 2.0  # seconds before a wait is looked at for whether it can end
_GRACE = 5.0  # seconds for the abort to end this process, before it ends itself


def start(comm: Comm, job: JobSettings) -> FlightRecorder | None:
    """Watch this rank from now on, as long as somebody holds the recorder. Collective. Raises ProgramMismatch.

    Returns None where no rank is to be watched.
    """
    said = [[str(word) for word in every] for every in comm.gather_objects(_facts(job))]  # type: ignore[attr-defined]
    _check_alike([" ".join(facts[1:]) for facts in said])
    if not job.seconds:
        return None
    hosts = [facts[0] for facts in said]
    here = [rank for rank, host in enumerate(hosts) if host == hosts[comm.rank]]
    notes = _share(comm, here)
    elsewhere = comm.size - notes.places
    arguments = (weakref.ref(notes), notes.closed, comm, job.seconds, elsewhere)
    threading.Thread(target=_watch, args=arguments, name="autopar watchdog", daemon=True).start()
    return notes


def _facts(job: JobSettings) -> list[str]:
    return [socket.gethostname(), f"{CHECK}={int(job.check)}", f"{TIMEOUT}={job.seconds:g}"]


def _check_alike(said: list[str]) -> None:
    if len(set(said)) > 1:
        lines = [f"rank {rank}: {facts}" for rank, facts in enumerate(said)]
        rule = "all ranks see the same variables"
        fix = "set them on the launcher's command line: `mpiexec -genv NAME value` (MPICH), `mpirun -x NAME` (Open MPI)"
        raise ProgramMismatch(refusal("environment", "differs between ranks", rule, lines, fix))


def _share(comm: Comm, here: list[int]) -> FlightRecorder:
    """The flight recorder of this host's ranks `here`; of this rank alone where it cannot see the others' file."""
    first = comm.rank == here[0]
    folder = failure_files.folder()
    if folder is not None and any(folder.glob(f"{flight_recorder.NAME}-*")):
        folder = None  # the launcher reads that of the first grid
    path = flight_recorder.make(folder, len(here)) if first else None
    named = comm.gather_objects("" if path is None else str(path))[here[0]]
    try:
        notes = FlightRecorder(Path(str(named)), here.index(comm.rank), len(here), comm.rank)
    except OSError:
        path = flight_recorder.make(None, 1)
        notes = FlightRecorder(path, 0, 1, comm.rank)
    comm.barrier()
    if path is not None and path.parent != folder:
        path.unlink()
    return notes


def _watch(
    notes: weakref.ref[FlightRecorder], closed: threading.Event, comm: Comm, limit: float, elsewhere: int
) -> None:
    """Look after this rank until its recorder is closed, without holding it."""
    step = max(0.02, min(1.0, limit / 8))
    call, waited, suspected = 0, 0.0, 0.0
    last = time.monotonic()
    while not closed.wait(step) and (held := notes()) is not None:
        now = time.monotonic()
        passed, last = min(now - last, 2 * step), now
        current = held.waiting()
        waited = waited + passed if current and current == call else 0.0
        call = current
        vain = waited > _VAIN and comm.rank in deadlocks.in_vain(flight_recorder.read(held.memory))
        suspected = suspected + passed if vain else 0.0
        if waited >= limit or suspected >= 1.0:
            _tell(held, comm, elsewhere)
        del held


def _tell(notes: FlightRecorder, comm: Comm, elsewhere: int) -> None:
    """Say what has come of it and end the job; the first rank of the host speaks, the others wait for their end."""
    if not notes.claim():
        time.sleep(2 * _GRACE)
    every = flight_recorder.read(notes.memory)
    text = deadlocks.account(comm.rank, every, time.monotonic(), elsewhere)
    failure.last_words(comm.rank, text)
    if elsewhere:
        time.sleep(1.0)  # the other hosts' accounts
    threading.Thread(target=comm.abort, args=(STATUS,), daemon=True).start()
    time.sleep(_GRACE)
    for process in every:
        if process.state == "stopped":
            flight_recorder.kill(process)
    os._exit(STATUS)
