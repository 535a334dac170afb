"""What the environment asks of a job.

    AUTOPAR_TIMEOUT   seconds that a rank may wait in one call: 600, in checked mode 60; 0 turns the watchdog off
    AUTOPAR_CHECK     1: compare every call with those of the other ranks before it is made
    AUTOPAR_TERMINAL  1: what is printed ends up on a terminal, 0: elsewhere; set by the launcher

The first two are to be the same on all ranks, who compare them.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from autopar.errors import ConfigError, refusal

CHECK, TERMINAL, TIMEOUT = "AUTOPAR_CHECK", "AUTOPAR_TERMINAL", "AUTOPAR_TIMEOUT"
_SECONDS, _CHECKED_SECONDS = 600.0, 60.0


@dataclass(frozen=True, slots=True)
class JobSettings:
    """Whether calls are compared, and how many seconds a rank may wait; 0 is without limit."""

    check: bool
    seconds: float


def settings(environment: Mapping[str, str] = os.environ) -> JobSettings:
    """What the environment asks for. Raises ConfigError."""
    check = environment.get(CHECK, "").strip() or "0"
    if check not in ("0", "1"):
        raise ConfigError(refusal(CHECK, f"is {check!r}", "it is 0 or 1"))
    said = environment.get(TIMEOUT, "").strip()
    seconds = _number(said) if said else _CHECKED_SECONDS if check == "1" else _SECONDS
    if not 0 <= seconds < math.inf:
        rule = "it is the number of seconds that a rank may wait in one call; 0 is without limit"
        raise ConfigError(refusal(TIMEOUT, f"is {said!r}", rule))
    return JobSettings(check == "1", seconds)


def is_terminal() -> bool:
    """Whether what is printed ends up on a terminal. A rank of a launcher cannot see that: some MPIs give it one of its own."""
    said = os.environ.get(TERMINAL)
    return sys.stdout.isatty() if said is None else said == "1"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
