"""One job at a time saves into a folder: a lock on ``DIR/.lock`` that the job's rank 0 holds for as long as it lives.

The lock is the system's (`flock`): it is gone with the process that held it, however that ended. The file says which
process that is, for the message to who comes second. Where a file system has no such locks, the job goes on and says so.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from autopar.errors import CheckpointError, refusal
from autopar.runtime.checkpoint import durable
from autopar.runtime.diagnostics.collective_errors import by_rank0
from autopar.runtime.transport.base import Comm

NAME = ".lock"
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class FolderLock:
    """A folder that this job alone saves into, for as long as the object lives. `note` says where that is not certain."""

    def __init__(self, file: int | None = None, note: str = "") -> None:
        self.note = note
        if file is not None:
            release = weakref.finalize(self, os.close, file)
            os.register_at_fork(after_in_child=release)  # a loader's worker does not hold it for a job that has ended


def lock_folder(folder: Path, comm: Comm) -> FolderLock:
    """Take the lock of a folder, which is made if need be. Collective; rank 0 holds it.

    Raises CheckpointError, on all ranks, where another job has it, or where nothing can be written there.
    """
    taken: list[FolderLock] = []

    def take() -> str:
        taken.append(_lock(folder))
        return taken[0].note

    note = by_rank0(comm, f"locking {folder}", take)
    return taken[0] if taken else FolderLock(None, note)


def _lock(folder: Path) -> FolderLock:
    try:
        durable.make_folder(folder)
        file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        rule = "checkpoints are written into a folder that is made if need be"
        raise CheckpointError(refusal(str(folder), f"cannot be written: {error.strerror or error}", rule)) from error
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, ImportError) as error:
        holder = _read(file)
        os.close(file)
        number = getattr(error, "errno", errno.ENOSYS)
        if number in _NO_LOCKS:
            note = f"{folder} is on a file system without locks: see to it that no other job saves there"
            return FolderLock(None, note)
        if number not in _HELD:
            raise
        return _second(folder, holder)
    said = {"host": socket.gethostname(), "process": os.getpid(), "since": time.time()}
    with suppress(OSError):  # a full disk: only the message to others lacks it
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(said).encode(), 0)
    return FolderLock(file)


def _second(folder: Path, holder: dict[str, Any]) -> FolderLock:
    """A lock for a process that holds it already, for another model of the same job. Raises CheckpointError for any other."""
    if (holder.get("host"), holder.get("process")) == (socket.gethostname(), os.getpid()):
        return FolderLock()
    who = "which has just begun"
    if holder:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(holder.get("since", 0))))
        who = f"process {holder.get('process')} on {holder.get('host')}, since {since}"
    rule = "one job at a time saves into a folder: two would remove each other's checkpoints"
    fix = "let that job end, or name another folder"
    raise CheckpointError(refusal(str(folder), f"another job saves into it: {who}", rule, fix=fix))


def _read(file: int) -> dict[str, Any]:
    try:
        said = json.loads(os.pread(file, 4096, 0))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
