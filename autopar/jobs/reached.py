"""How far a job has come, where its launcher can read it when all ranks are gone: a file of eight bytes per rank of its host."""

from __future__ import annotations

import os
import struct
import weakref
from pathlib import Path

from autopar.jobs import failure_files

REACHED = "AUTOPAR_REACHED"
"""The step that a job had reached which this one goes on for."""
_STEP = struct.Struct("=q")
_NAME = "reached-"


class ReachedStep:
    """The last step that this rank has done. Without a launcher on this machine nothing is written."""

    def __init__(self, rank: int) -> None:
        place = failure_files.folder()
        self._file = None if place is None else os.open(place / f"{_NAME}{rank:05d}", os.O_CREAT | os.O_RDWR, 0o600)
        if self._file is not None:
            weakref.finalize(self, os.close, self._file)

    def note(self, step: int) -> None:
        """This step is done."""
        if self._file is not None:
            os.pwrite(self._file, _STEP.pack(step), 0)


def reached_step(folder: Path) -> int | None:
    """The last step that any rank of this host has done; None where none has begun to train."""
    every = [path.read_bytes() for path in folder.glob(f"{_NAME}*")]
    return max((_STEP.unpack(one)[0] for one in every if len(one) == _STEP.size), default=None)


def reached_before() -> int | None:
    """The step that the job had reached which this one goes on for, if its launcher says so."""
    said = os.environ.get(REACHED, "")
    return int(said) if said else None
