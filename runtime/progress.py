"""Progress of a job, on rank 0: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import Any

from autopar.jobs.environment import is_terminal


def show(rank: int, text: str) -> None:
    """Print a line once for all ranks."""
    if rank == 0:
        print(text, flush=True)


class Progress:
    """How many of `total` steps, or whatever `word` says, are done; a context manager. Only one rank has it `shown`.

    Where there is no terminal, the first, the last and about `lines` in between are told.
    """

    def __init__(self, total: int, shown: bool, word: str = "step", lines: int = 20) -> None:
        self._total = total
        self._shown = shown
        self._word = word
        self._every = max(1, total // lines)
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._shown and is_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(force_terminal=True, highlight=False))
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def done(self, number: int, text: str) -> None:
        """So many are done, the last of which came to this."""
        if self._bar is not None:
            self._bar.update(self._task, completed=number, description=text)
        elif number == 1 or number == self._total or number % self._every == 0:
            self.tell(f"{self._word} {number:>{len(str(self._total))}}/{self._total}  {text}")

    def tell(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text)
        elif self._shown:
            print(text, flush=True)
