"""What a run writes of its steps, a line of a CSV file each: step, loss, seconds, and what an evaluation after it came to."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

HEAD = ("step", "loss", "seconds", "evaluation")


class MetricsFile:
    """A file that rank 0 writes, line by line, so that it can be read while the job runs. Raises OSError.

    A job that goes on after the steps `begun` keeps the lines of these. The model file's own metrics have columns behind
    the others, from the first evaluation on.
    """

    def __init__(self, path: Path, begun: int = 0) -> None:
        self._path = path
        self._head = list(HEAD)
        before: list[list[str]] = []
        if begun and path.is_file():
            head, rows = _read(path)
            if head[: len(HEAD)] == list(HEAD):
                self._head, before = head, [row for row in rows if int(row[0]) <= begun]
        self._begin(before)

    def _begin(self, rows: Sequence[Sequence[str]]) -> None:
        self._file = self._path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerow(self._head)
        self._writer.writerows([*row, *[""] * (len(self._head) - len(row))] for row in rows)

    def step(
        self, step: int, loss: float, seconds: float, evaluation: float | None, metrics: Mapping[str, float]
    ) -> None:
        """Write a step, with the loss and the metrics of an evaluation after it, if there was one."""
        if new := [name for name in metrics if name not in self._head[len(HEAD) :]]:
            self._file.close()
            rows = _read(self._path)[1]
            self._head += new
            self._begin(rows)
        own = [repr(metrics[name]) if name in metrics else "" for name in self._head[len(HEAD) :]]
        self._writer.writerow(
            [step, repr(loss), f"{seconds:.6f}", "" if evaluation is None else repr(evaluation), *own]
        )
        self._file.flush()

    def close(self) -> None:
        """No more steps come."""
        self._file.close()


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="", encoding="utf-8") as stream:
        every = [row for row in csv.reader(stream) if row]
    return (every[0], every[1:]) if every else ([], [])
