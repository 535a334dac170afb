"""Telling what the stages of a compilation come to, how long each takes, and, of one that takes long, that it is under way.

A stage is told by its result, ``captured``, when it ends. After every ten seconds in between it is told as what is being done,
``capturing``, without a result; such words are no stages of their own (`UNDER_WAY`).
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

LOG = logging.getLogger("autopar.compile")

Progress = Callable[[str, str, float], None]  # stage, what came out, seconds

SILENCE = 10.0
"""Seconds that may pass without a word."""
UNDER_WAY = {
    "captured": "capturing",
    "merged": "merging axes",
    "discovered": "discovering",
    "priced": "pricing",
    "measured": "measuring",
    "solved": "solving",
    "emitted": "emitting",
}


@contextmanager
def timed(tell: Progress, stage: str) -> Iterator[Callable[[str], None]]:
    """A stage: it is told when it ends, with the last thing that was said of it, and now and then until then."""
    start = time.perf_counter()
    said: list[str] = [""]
    ended = threading.Event()

    def remind() -> None:
        while not ended.wait(SILENCE):
            tell(UNDER_WAY.get(stage, stage), said[-1], time.perf_counter() - start)

    watch = threading.Thread(target=remind, name="autopar progress", daemon=True)
    if tell is not silent:
        watch.start()
    try:
        yield said.append
    finally:
        ended.set()
        if tell is not silent:
            watch.join()
    tell(stage, said[-1], time.perf_counter() - start)


def silent(stage: str, text: str, seconds: float) -> None:
    """Progress of what is done beside the work that somebody waits for."""


def only_reminders(tell: Progress) -> Progress:
    """What is told of work that has no line of its own."""

    def remind(stage: str, text: str, seconds: float) -> None:
        if stage in UNDER_WAY.values():
            tell(stage, text, seconds)

    return silent if tell is silent else remind


def logged(stream: TextIO | None = None) -> Progress:
    """Progress for whoever asked for none: to the log, and of stages that take long a line on a terminal.

    The terminal is that of the moment when this is called: export keeps standard error to itself.
    """
    shown = sys.stderr if stream is None else stream
    terminal = shown is not None and shown.isatty()

    def tell(stage: str, text: str, seconds: float) -> None:
        line = f"{stage} {text}".rstrip()
        if LOG.isEnabledFor(logging.INFO) or (logging.root.manager.disable and LOG.getEffectiveLevel() <= logging.INFO):
            where = (LOG.name, logging.INFO, __file__, 0, "%s, %.1f s", (line, seconds), None)
            LOG.handle(LOG.makeRecord(*where))  # while a model is exported, all logs are off
        if terminal and stage in UNDER_WAY.values():
            print(f"autopar: {line}, {seconds:.0f} s", file=shown, flush=True)

    return tell
