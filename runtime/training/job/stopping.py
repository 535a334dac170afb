"""When a run ends before its last step: a signal to any rank, or ``--stop-after``, decided alike on all ranks.

Each rank says what it was asked for in a sum that all ranks take in every step anyway (see `verdict`), so that all end
after the same step. A time limit leaves room for what comes after the decision: the rest of a step, and the save.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator

from autopar.errors import ConfigError
from autopar.jobs.durations import duration_text, parse_duration
from autopar.jobs.signals import BEGUN, StopRequests

_BYTES_PER_SECOND = 100e6  # of a disk, as long as nothing was saved
_FIRST_SAVE = 1.0  # seconds more, of the first
_LONGER = 1.5  # times the longest step so far, what comes may take
_SAVES = 2  # one that is under way, and the last


def add(parser: argparse.ArgumentParser) -> None:
    """Add ``--stop-after``."""
    after = "end after a step, in time for the checkpoint, within this time from the start: 90s, 15m, 3h50m"
    parser.add_argument("--stop-after", metavar="TIME", help=after)


def problems(options: argparse.Namespace) -> Iterator[str]:
    """What is wrong with it, a line."""
    try:
        seconds_of(options)
    except ConfigError as error:
        yield "; ".join(line.strip() for line in str(error).splitlines())


def seconds_of(options: argparse.Namespace) -> float | None:
    """The seconds of ``--stop-after``, None without it. Raises ConfigError."""
    return None if options.stop_after is None else parse_duration(options.stop_after, "--stop-after")


class Stopping:
    """What this rank knows of an early end. `seconds` count from the start of the launcher; None is without limit.

    `saved_bytes` is what this rank will write, 0 where nothing is saved.
    """

    def __init__(
        self,
        requests: StopRequests,
        seconds: float | None = None,
        saved_bytes: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._requests = requests
        self._clock = clock
        self._limit = seconds
        self._begun = float(os.environ.get(BEGUN) or clock())
        self._save = _FIRST_SAVE + saved_bytes / _BYTES_PER_SECOND if saved_bytes else 0.0
        self._step = 0.0

    def took(self, step: float, save: float = 0.0) -> None:
        """A step took so many seconds, and the save behind it, if there was one."""
        self._step = max(self._step, step)
        if save:
            self._save = max(self._save, save)

    @property
    def signalled(self) -> str:
        """The signal that this rank has heard, if any."""
        return self._requests.reason

    @property
    def asked(self) -> str:
        """Why this rank would end after this step; empty if it would go on."""
        if self._requests.reason:
            return self._requests.reason
        if self._limit is not None and self._left() < _LONGER * self._step + _SAVES * self._save:
            return f"--stop-after {duration_text(self._limit)}"
        return ""

    def _left(self) -> float:
        assert self._limit is not None
        return self._begun + self._limit - self._clock()
