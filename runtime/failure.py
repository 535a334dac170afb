"""The end of a job that fails: what each rank says, so that the first cause is what the user sees last.

A rank that fails writes its cause into a folder that the launcher has made (``AUTOPAR_ERRORS``), prints it, and ends
the job. The launcher, once everything else has been printed, repeats the first of them. Without a launcher the cause
is still printed.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from autopar.errors import AutoparError
from autopar.runtime.together import is_alike
from autopar.runtime.transport.base import Comm

FOLDER = "AUTOPAR_ERRORS"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a rank ended: its message or traceback, when, and whether all ranks had the same."""

    rank: int
    seconds: float
    text: str
    alike: bool


@contextmanager
def reported(comm: Comm) -> Iterator[None]:
    """Run a rank's whole work. A failure is written down and printed, and ends the whole job with status 1."""
    announce(comm.rank)
    try:
        yield
    except Exception as error:  # whatever it is, the job must not hang on it
        failure = Failure(comm.rank, time.time(), describe(error), is_alike(error))
        _write(failure)
        if failure.alike:  # one of them says it for all; nobody goes before it is said
            if comm.rank == 0 and _folder() is None:  # a launcher says it last
                _say(failure.text)
            comm.barrier()
            sys.exit(1)
        _say(f"rank {failure.rank}: {failure.text}")
        comm.abort(1)


def describe(error: Exception) -> str:
    """A user's mistake as its message, anything else as its traceback."""
    if isinstance(error, AutoparError):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


def announce(rank: int) -> None:
    """Leave this process's number for the launcher, since MPI names a killed process by that."""
    folder = _folder()
    if folder is not None:
        (folder / f"process-{os.getpid()}").write_text(str(rank), encoding="utf-8")


def first(folder: Path) -> Failure | None:
    """The earliest failure that the ranks have written."""
    found = []
    for path in sorted(folder.glob("rank-*.json")):
        try:
            found.append(Failure(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue  # the rank was ended while it wrote
    return min(found, key=lambda failure: failure.seconds, default=None)


def rank_of_process(folder: Path, process: int) -> int | None:
    """The rank that ran as this process on this machine, if it said so."""
    path = folder / f"process-{process}"
    return int(path.read_text(encoding="utf-8")) if path.exists() else None


def _say(text: str) -> None:
    """Print in one piece: what several ranks print at once would mix otherwise."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _write(failure: Failure) -> None:
    folder = _folder()
    if folder is not None:
        (folder / f"rank-{failure.rank:05d}.json").write_text(json.dumps(asdict(failure)), encoding="utf-8")


def _folder() -> Path | None:
    """The launcher's folder, on the machine where the launcher runs."""
    folder = os.environ.get(FOLDER)
    return Path(folder) if folder and Path(folder).is_dir() else None
