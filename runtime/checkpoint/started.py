"""A checkpoint that is written while training goes on: a copy of what it holds, then a thread that hashes, writes and flushes it.

    started = BackgroundSaves().start(new, keep)       copies this rank's parts into buffers that are kept from save to save
    started.advance()                                  now and then, between steps, on all ranks: one sum of a number
    started.wait()                                     its path; or raises what went wrong, on all ranks

No thread calls MPI, and no rank looks for files of another, which a network file system may show late. The ranks agree in
`advance`: once all of them have their files on the disk, they tell each other what the index says, and rank 0's thread commits. A
rank that dies before leaves a folder without a name, which is no checkpoint.

Where every core has a rank that computes, what the thread computes makes steps longer. So it rests after each piece, and the save
takes longer instead, until somebody waits for it.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from weakref import finalize

import torch
from torch import Tensor

from autopar.ir.units import bytes_text
from autopar.runtime.checkpoint.save import NewCheckpoint
from autopar.runtime.diagnostics.collective_errors import by_rank0, together

_REST = 12.0
"""Seconds of rest for a second of hashing, beside which writing takes a third of a second: a tenth of a core is busy."""


class StartedSave:
    """A save under way. `wait` and `advance` are collective; so is whatever calls them."""

    def __init__(
        self,
        new: NewCheckpoint,
        tensors: Mapping[str, Tensor],
        keep: int | None,
        thread: ThreadPoolExecutor,
        reason: str | None = None,
    ) -> None:
        self._new, self._keep, self._thread = new, keep, thread
        self.reason = reason
        """Why it was not written beside, or None."""
        self._hurry = threading.Event()
        self._path: Path | None = None
        self._error: Exception | None = None
        self._ending = False
        self._task: Future[Any] | None = thread.submit(new.write, tensors, self._rested)
        self._forgotten = finalize(self, _tell, f"{new.what}: it was not waited for, and is no checkpoint")
        self._forgotten.atexit = new.comm.rank == 0

    @property
    def ended(self) -> bool:
        """Whether it has its name, or has failed."""
        return self._path is not None or self._error is not None

    def advance(self) -> None:
        """Go on if all ranks are ready to. What went wrong is raised by `wait`."""
        if self.ended:
            return
        waiting = torch.tensor([self._task is not None and not self._task.done()], dtype=torch.int64)
        self._new.comm.all_reduce(waiting)
        if waiting.item():
            return
        try:
            self._go_on()
        except Exception as error:
            self._error = error
        if self.ended:
            self._forgotten.detach()

    def wait(self) -> Path:
        """The checkpoint, once it has its name. Raises CheckpointError, on all ranks."""
        self._hurry.set()
        while not self.ended:
            if self._task is not None:
                wait([self._task])
            self.advance()
        if self._error is not None:
            raise self._error
        assert self._path is not None
        return self._path

    def _go_on(self) -> None:
        new, task = self._new, self._task
        if self._ending:
            self._path = Path(by_rank0(new.comm, new.what, lambda: str(task.result() if task is not None else "")))
            return
        with together(new.comm, new.what):
            assert task is not None
            mine = task.result()
        every = list(new.comm.gather_objects(mine))
        self._ending = True
        self._task = self._thread.submit(new.commit, every, self._keep) if new.comm.rank == 0 else None

    def _rested(self, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        for piece in pieces:
            start = time.thread_time()
            yield piece
            if threading.main_thread().is_alive():  # not on the way out, where nobody computes
                self._hurry.wait(_REST * (time.thread_time() - start))


class BackgroundSaves:
    """The saves of a job: one at a time, all by one thread, through the same copies."""

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(1, "checkpoint")

    def start(self, new: NewCheckpoint, keep: int | None, beside: int, limit: float | None) -> StartedSave:
        """Copy what a checkpoint holds, and write it beside. Collective, and the one before has ended.

        `beside` are the bytes that a rank holds in a step without the copies, `limit` what it may hold. Where some rank has no room
        for copies all ranks write at once what is there, and raise CheckpointError if that fails.
        """
        if reason := self._objection(new, beside, limit):
            self._copies = {}
            started = StartedSave(new, new.tensors, keep, self._thread, reason)
            started.wait()
            return started
        kept = self._copies
        self._copies = {key: _room(kept.pop(key, None), tensor).copy_(tensor) for key, tensor in new.tensors.items()}
        return StartedSave(new, self._copies, keep, self._thread)

    def _objection(self, new: NewCheckpoint, beside: int, limit: float | None) -> str | None:
        """Why the copies are not made, alike on all ranks. Collective."""
        copies = sum(tensor.nbytes for tensor in new.tensors.values())
        lacking = copies - sum(tensor.nbytes for tensor in self._copies.values())
        most = None if limit is None or beside + copies <= limit else int(limit)
        told: list[Any] = new.comm.gather_objects([socket.gethostname(), copies, lacking, _available(), most, beside])
        for rank, (_, size, _, _, over, held) in enumerate(told):
            if over is not None:
                much = f"{bytes_text(held)} in a step, and a copy of {bytes_text(size)}"
                return f"rank {rank} holds {much} is over its {bytes_text(over)}"
        for host in dict.fromkeys(one[0] for one in told):
            need = sum(max(0, one[2]) for one in told if one[0] == host)
            there = min(one[3] for one in told if one[0] == host)
            if need > there:
                return f"the copies of the ranks on {host} take {bytes_text(need)} of memory, and {bytes_text(there)} are free"
        return None


def _available() -> int:
    """Bytes of memory that this machine can give yet; as many as anybody asks for where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return sys.maxsize


def _room(kept: Tensor | None, tensor: Tensor) -> Tensor:
    """A CPU tensor to copy another one into: that of the last time if it fits."""
    if kept is not None and kept.shape == tensor.shape and kept.dtype == tensor.dtype:
        return kept
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
