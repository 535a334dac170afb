"""The end of a job that fails: what each rank says, so that the first cause is what the user sees last.

A rank that fails leaves its cause for the launcher, prints it, and ends the job. The launcher, once everything else has
been printed, repeats the first of them. Without a launcher the cause is still printed. Programs run inside `reported`; in
anybody else's script, `end_scripts` sees to what nobody catches.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from autopar.errors import AutoparError
from autopar.jobs.failure_files import Failure, announce, folder, write
from autopar.runtime.diagnostics.collective_errors import is_alike, told_by
from autopar.runtime.transport.base import Comm

_INTERRUPTED = 130  # what a shell says of a process that an interrupt has ended
_GRACE = 5.0  # seconds for another rank to end the job
_PASSED_ON = 0.2  # seconds in which mpiexec reads what was printed: it may drop that once a rank has ended the job


@contextmanager
def reported(comm: Comm) -> Iterator[None]:
    """Run a rank's whole work. A failure is written down and printed, and ends the whole job with status 1."""
    announce(comm.rank)
    try:
        yield
    except SystemExit as error:
        if status := _status(error):
            _say_own(Failure(comm.rank, time.time(), _exit_line(error, status), False))
            comm.abort(status)
        raise
    except KeyboardInterrupt:
        comm.abort(_INTERRUPTED)
    except Exception as error:  # whatever it is, the job must not hang on it
        _end(comm, error)


def _end(comm: Comm, error: Exception) -> None:
    if is_alike(error):  # one of them says it for all; nobody goes before it is said
        if comm.rank == 0:
            last_words(comm.rank, describe(error))
        comm.barrier()
        sys.exit(1)
    teller = told_by(error)
    if teller is None:
        _say_own(Failure(comm.rank, time.time(), describe(error), False))
    elif teller == comm.rank:
        last_words(comm.rank, describe(error))
    else:
        time.sleep(_GRACE)
    comm.abort(1)


def end_scripts(comm: Comm, first: Callable[[], bool]) -> None:
    """From now on an exception that a script does not catch ends the whole job, its cause said once and last.

    `first` tells whether this rank is the first to fail, of those that can know of each other.
    """
    if comm.size == 1:
        return
    usual = sys.__excepthook__

    def ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, Exception):
            usual(kind, error, trace)
            return
        sys.stdout.flush()  # of a rank that waits for its end, nothing would be seen
        shared = 0 if is_alike(error) else told_by(error)
        if comm.rank != shared if shared is not None else not first():
            time.sleep(_GRACE)  # in which the other one says it and ends the job; unless that one has caught it
        if shared is None:
            _say_own(Failure(comm.rank, time.time(), describe(error), False))
        else:
            last_words(comm.rank, describe(error))
        comm.abort(1)

    sys.excepthook = ended


def last_words(rank: int, text: str) -> None:
    """Say for all ranks why the job ends: at once, or where there is a launcher, by its last words."""
    write(Failure(rank, time.time(), text, True))
    if folder() is None:
        _say(text)


def _say_own(failure: Failure) -> None:
    write(failure)
    _say(f"rank {failure.rank}: {failure.text}")


def _status(error: SystemExit) -> int:
    """The process's exit status."""
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


def _exit_line(error: SystemExit, status: int) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    said = (
        f"sys.exit({error.code!r})" if error.code != status or isinstance(error.code, bool) else f"sys.exit({status})"
    )
    return f"{said} in {where.name}, {where.filename}:{where.lineno}\n    {where.line}"


def describe(error: Exception) -> str:
    """A user's mistake as its message, anything else as its traceback."""
    if isinstance(error, AutoparError):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


def _say(text: str) -> None:
    """Print in one piece: what several ranks print at once would mix otherwise. Ends when mpiexec has passed it on."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
    time.sleep(_PASSED_ON)
