"""Kinds of option values: from a word of the command line to a number, or the reason why it is none."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable


def count(least: int) -> Callable[[str], int]:
    """A whole number of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return parse


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers of at least 1, with commas."""
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError:
        numbers = (0,)
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers of at least 1, as in 4,8,17")
    return numbers


def seconds(text: str) -> float:
    """A finite number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def results_only(json: bool) -> contextlib.AbstractContextManager[object]:
    """While a model file runs: what it prints goes to standard error where standard output is for JSON."""
    return contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext()
