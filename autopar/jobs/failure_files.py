"""What failing ranks leave in a folder that the launcher has made, which then tells the first of them.

    rank-00003.json    why rank 3 failed
    process-4711       the rank that ran as process 4711, since MPI names a killed process by that

Where there is no launcher, or it is on another machine, nothing is written.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = "AUTOPAR_ERRORS"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a rank ended: its message or traceback, when, and whether that says it for all ranks."""

    rank: int
    seconds: float
    text: str
    alike: bool


def folder() -> Path | None:
    """The launcher's folder, on the machine where the launcher runs."""
    path = os.environ.get(FOLDER)
    return Path(path) if path and Path(path).is_dir() else None


def announce(rank: int) -> None:
    """Leave this process's number for the launcher."""
    place = folder()
    if place is not None:
        (place / f"process-{os.getpid()}").write_text(str(rank), encoding="utf-8")


def write(failure: Failure) -> None:
    """Leave a cause for the launcher."""
    place = folder()
    if place is not None:
        (place / f"rank-{failure.rank:05d}.json").write_text(json.dumps(asdict(failure)), encoding="utf-8")


def first(place: Path) -> Failure | None:
    """The earliest failure that the ranks have written."""
    failures = []
    for path in sorted(place.glob("rank-*.json")):
        try:
            failures.append(Failure(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue  # the rank was ended while it wrote
    return min(failures, key=lambda failure: failure.seconds, default=None)


def rank_of_process(place: Path, process: int) -> int | None:
    """The rank that ran as this process on this machine, if it said so."""
    path = place / f"process-{process}"
    return int(path.read_text(encoding="utf-8")) if path.exists() else None
