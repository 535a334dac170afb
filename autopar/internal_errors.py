"""Mistakes of our own, told as such: no assertion and no KeyError of a stage reaches a user bare."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autopar.errors import AutoparError, InternalError, refusal


class BrokenCall(Exception):
    """A stage cannot handle a call under its record."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name
        self.why = why


@contextmanager
def as_internal_error(where: str) -> Iterator[None]:
    """Whatever is raised inside that is no refusal is an InternalError, with the exception as its cause."""
    try:
        yield
    except (AutoparError, BrokenCall, MemoryError):
        raise
    except Exception as error:  # of any kind: that is what makes it a mistake
        last = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{error_text(error)} ({Path(last.filename).name}, line {last.lineno})"
        rule = "this is a mistake of autopar, not of the model"
        fix = "report it with the model; where an operator is to blame, pin it: 'PATTERN: replicate@*'"
        raise InternalError(refusal(where, fault, rule, (), fix)) from error


def error_text(error: Exception) -> str:
    """An exception as half a sentence."""
    return " ".join(f"{type(error).__name__}: {error}".split())
