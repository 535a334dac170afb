"""Telling what the stages of a compilation come to, and how long each takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, str, float], None]  # stage, what came out, seconds


@contextmanager
def timed(tell: Progress, stage: str) -> Iterator[Callable[[str], None]]:
    """A stage: it is told when it ends, with the last thing that was said of it."""
    start = time.perf_counter()
    said: list[str] = [""]
    yield said.append
    tell(stage, said[-1], time.perf_counter() - start)


def silent(stage: str, text: str, seconds: float) -> None:
    """Progress that nobody asked for."""
