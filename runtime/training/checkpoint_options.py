"""``--checkpoint DIR``: a run saves there every so many steps and at its end, and with ``--resume`` goes on from there."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from autopar.errors import CheckpointError, refusal
from autopar.jobs.reached import reached_before
from autopar.runtime.checkpoint import folders, probe
from autopar.runtime.checkpoint.started import StartedSave
from autopar.runtime.diagnostics.collective_errors import by_rank0, together
from autopar.runtime.session.folder_lock import FolderLock, lock_folder
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training.job import nonfinite
from autopar.runtime.training.job.schedule import RateSchedule

_EVERY, _KEEP = 100, 3


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command line of a program."""
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="save the state of the training there")
    parser.add_argument("--every", type=int, metavar="N", help=f"steps from one checkpoint to the next ({_EVERY})")
    parser.add_argument("--keep", type=int, metavar="K", help=f"how many checkpoints stay, the newest ({_KEEP})")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint, if there is one")


def problems(options: argparse.Namespace) -> Iterator[str]:
    """What is wrong with them, a line each."""
    given = [f"--{name}" for name in ("every", "keep", "resume") if getattr(options, name) not in (None, False)]
    if options.checkpoint is None and given:
        yield f"{', '.join(given)} without --checkpoint DIR"
    yield from (
        f"--{name} {value} is not 1 or more"
        for name in ("every", "keep")
        if (value := getattr(options, name)) is not None and value < 1
    )
    if options.resume:
        yield from (
            f"--resume with --{name}: it is for a run from its beginning"
            for name in ("compare", "profile", "weights")
            if getattr(options, name)
        )


class Checkpoints:
    """The checkpoints of a run. Making it is collective, and goes on from the newest one if that is asked for.

    `begun` are the steps that were made before, `lines` what there is to tell of them. Raises CheckpointError, on all ranks, before
    anything is trained, where the folder cannot be written, or holds the checkpoints of another run.
    """

    def __init__(
        self,
        parallel: Parallel,
        optimizer: torch.optim.Optimizer,
        options: argparse.Namespace,
        schedule: RateSchedule | None = None,
    ) -> None:
        self._parallel, self._optimizer = parallel, optimizer
        self._schedule = None if schedule is None else schedule.inner
        self._mode: str = options.on_nonfinite
        self.seconds = 0.0  # that the last call of `after` has taken
        self._folder: Path | None = options.checkpoint
        self._every, self._keep = options.every or _EVERY, options.keep or _KEEP
        self._last: Path | None = None
        self._saving: StartedSave | None = None
        self._reason: str | None = None
        self._lock: FolderLock | None = None
        self.begun = 0
        self.lines: list[str] = []
        if self._folder is not None:
            self._open(self._folder, options.resume)

    def _open(self, folder: Path, resume: bool) -> None:
        comm = self._parallel.grid.comm
        self._lock = lock_folder(folder, comm)
        there: list[str] = by_rank0(comm, f"--checkpoint {folder}", lambda: _opened(folder, resume))
        with together(comm, f"--checkpoint {folder}"):
            if not folder.is_dir():
                rule = "all ranks write into one folder, which all nodes share"
                raise CheckpointError(refusal(f"--checkpoint {folder}", "it is not seen by every rank", rule))
        self.lines = [f"note       {self._lock.note}"] if self._lock.note else []
        if there:
            self._resume(folder)
        reached = reached_before()
        self.lines += [] if reached is None or reached <= self.begun else [_redone(self.begun, reached)]
        needed = self._parallel.checkpoint_bytes(self._optimizer)
        what = f"looking for room in {folder}"
        note: str | None = by_rank0(comm, what, lambda: probe.room(folder, needed, len(there), self._keep))
        self.lines += [] if note is None else [f"note       {note}"]

    def _resume(self, folder: Path) -> None:
        found = self._parallel.load(folder, self._optimizer, scheduler=self._schedule)
        self.begun, self._last = found.step, found.path
        self.lines += [
            f"resumed    {found.path}, after step {found.step}",
            *(f"passed     {line}" for line in found.passed),
            *(f"note       the checkpoint has the state of a {name}, and this run has none" for name in found.left),
        ]

    def after(self, step: int, last: int, *, ending: bool = False) -> list[str]:
        """Begin a save after a step if it is time to; the one after the last step ends here. Returns lines to tell. Collective.

        A state with parameters that are not finite is not saved: ConfigError, or where the run goes on with them, a line. Raises
        CheckpointError, on all ranks, once a save has failed.
        """
        self.seconds, final = 0.0, ending or step == last
        if self._folder is None:
            return []
        start, lines = time.perf_counter(), []
        if self._saving is not None and self._saving.ended:
            self._end()
        if step % self._every == 0 or final:
            self._end()
            lines = self._begin(self._folder, step)
        if final:
            self._end()
        self.seconds = time.perf_counter() - start
        return lines

    def _begin(self, folder: Path, step: int) -> list[str]:
        parallel = self._parallel
        lost = nonfinite.unsavable(parallel.grid.comm, parallel.named_parameters(), parallel.named_buffers())
        if not lost:
            self._saving = parallel.start_save(
                folder, self._optimizer, step=step, scheduler=self._schedule, keep=self._keep
            )
            self._reason = self._saving.reason
            return []
        if self._mode != nonfinite.CONTINUE:
            lines = [f"{name} has elements that are not finite" for name in lost]
            raise nonfinite.refused(step, lines, self.newest())
        return [f"not saved  step {step}: {', '.join(lost[:5])} not finite; earlier checkpoints are as they were"]

    def _end(self) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            self._last = saving.wait()

    def newest(self) -> str:
        """Where the last one stands, empty without any; a save that is under way is ended. Collective."""
        self._end()
        return "" if self._last is None else str(self._last)

    @property
    def kept(self) -> bool:
        """Whether a job can go on from here."""
        return self._last is not None

    @property
    def bytes_here(self) -> int:
        """About what this rank writes: parameters, and the two states that most optimizers keep of each."""
        return 0 if self._folder is None else sum(3 * one.nbytes for one in self._parallel.parameters())

    @property
    def summary(self) -> list[str]:
        """Where the last one stands."""
        lines = [] if self._last is None else [f"checkpoint {self._last}"]
        return lines if self._reason is None else [*lines, f"note: steps waited for checkpoints: {self._reason}"]


def _redone(begun: int, reached: int) -> str:
    """What a job has lost that was started again."""
    first = begun + 1
    return f"elastic    {f'steps {first} to {reached} are' if reached > first else f'step {first} is'} done again"


def _opened(folder: Path, resume: bool) -> list[str]:
    """The checkpoints to go on from; the folder is made, and can be written. Raises CheckpointError."""
    try:
        probe.written(folder)
    except OSError as error:
        rule = "checkpoints are written into a folder that is made if need be"
        raise CheckpointError(
            refusal(f"--checkpoint {folder}", f"cannot be written: {error.strerror or error}", rule)
        ) from error
    there = [path.name for path in folders.steps(folder)]
    if there and not resume:
        rule = "a run from its beginning does not write among the checkpoints of another"
        fix = "--resume to go on from there, or another folder"
        raise CheckpointError(refusal(f"--checkpoint {folder}", f"it holds {there[0]}", rule, fix=fix))
    return there
