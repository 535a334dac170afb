"""``--checkpoint DIR``: a run saves there every so many steps and at its end, and with ``--resume`` goes on from there."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from autopar.errors import CheckpointError, refusal
from autopar.runtime.checkpoint import folders
from autopar.runtime.checkpoint.started import StartedSave
from autopar.runtime.diagnostics.collective_errors import by_rank0, together
from autopar.runtime.session.parallel_module import Parallel

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

    def __init__(self, parallel: Parallel, optimizer: torch.optim.Optimizer, options: argparse.Namespace) -> None:
        self._parallel, self._optimizer = parallel, optimizer
        self._folder: Path | None = options.checkpoint
        self._every, self._keep = options.every or _EVERY, options.keep or _KEEP
        self._last: Path | None = None
        self._saving: StartedSave | None = None
        self._reason: str | None = None
        self.begun = 0
        self.lines: list[str] = []
        if self._folder is not None:
            self._open(self._folder, options.resume)

    def _open(self, folder: Path, resume: bool) -> None:
        comm = self._parallel.grid.comm
        there: list[str] = by_rank0(comm, f"--checkpoint {folder}", lambda: _opened(folder, resume))
        with together(comm, f"--checkpoint {folder}"):
            if not folder.is_dir():
                rule = "all ranks write into one folder, which all nodes share"
                raise CheckpointError(refusal(f"--checkpoint {folder}", "it is not seen by every rank", rule))
        if not there:
            return
        found = self._parallel.load(folder, self._optimizer)
        self.begun = found.step
        self.lines = [
            f"resumed    {found.path}, after step {found.step}",
            *(f"passed     {line}" for line in found.passed),
        ]

    def after(self, step: int, last: int) -> None:
        """Begin a save after a step if it is time to; the one after the last step ends here. Collective.

        Raises CheckpointError, on all ranks, once a save has failed.
        """
        if self._folder is None:
            return
        if self._saving is not None and self._saving.ended:
            self._end()
        if step % self._every == 0 or step == last:
            self._end()
            self._saving = self._parallel.start_save(self._folder, self._optimizer, step=step, keep=self._keep)
            self._reason = self._saving.reason
        if step == last:
            self._end()

    def _end(self) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            self._last = saving.wait()

    @property
    def summary(self) -> list[str]:
        """Where the last one stands."""
        lines = [] if self._last is None else [f"checkpoint {self._last}"]
        return lines if self._reason is None else [*lines, f"note: steps waited for checkpoints: {self._reason}"]


def _opened(folder: Path, resume: bool) -> list[str]:
    """The checkpoints to go on from; the folder is made, and can be written. Raises CheckpointError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
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
