"""Progress of training, on rank 0: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
from typing import Any

from autopar.jobs.environment import is_terminal

LINES = 20  # printed for a whole run where there is no terminal


def show(rank: int, text: str) -> None:
    """Print a line once for all ranks."""
    if rank == 0:
        print(text, flush=True)


class Progress:
    """Shows step, loss and time; a context manager. On other ranks than 0 it shows nothing."""

    def __init__(self, steps: int, rank: int) -> None:
        self._steps = steps
        self._rank = rank
        self._every = max(1, steps // LINES)
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._rank == 0 and _terminal():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(force_terminal=True, highlight=False))
            self._bar.start()
            self._task = self._bar.add_task("", total=self._steps)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: int, loss: float, seconds: float) -> None:
        """A step has been done."""
        text = f"loss {loss:.6g}  {seconds * 1e3:.1f} ms"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif step == 1 or step == self._steps or step % self._every == 0:
            show(self._rank, f"step {step:>{len(str(self._steps))}}/{self._steps}  {text}")

    def compared(self, step: int, loss: float, sequential: float) -> None:
        """A step has been done by both models."""
        difference = abs(loss - sequential)
        text = f"compared   step {step}: loss {loss:.9g}, sequential {sequential:.9g}, difference {difference:.2g}"
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            show(self._rank, text)


def _terminal() -> bool:
    return is_terminal() and importlib.util.find_spec("rich") is not None
