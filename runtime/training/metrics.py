"""What a run writes of its steps, a line of a CSV file each: step, loss, seconds, and the loss of an evaluation after it."""

from __future__ import annotations

import csv
from pathlib import Path

HEAD = ("step", "loss", "seconds", "evaluation")


class MetricsFile:
    """A file that rank 0 writes, line by line, so that it can be read while the job runs. Raises OSError.

    A job that goes on after the steps `begun` keeps the lines of these.
    """

    def __init__(self, path: Path, begun: int = 0) -> None:
        before: list[list[str]] = []
        if begun and path.is_file():
            with path.open(newline="", encoding="utf-8") as stream:
                before = [row for row in list(csv.reader(stream))[1:] if row and int(row[0]) <= begun]
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerow(HEAD)
        self._writer.writerows(before)

    def step(self, step: int, loss: float, seconds: float, evaluation: float | None) -> None:
        """Write a step."""
        self._writer.writerow([step, repr(loss), f"{seconds:.6f}", "" if evaluation is None else repr(evaluation)])
        self._file.flush()

    def close(self) -> None:
        """No more steps come."""
        self._file.close()
