"""How long a job may take, as people write it: ``90s``, ``15m``, ``3h50m``, ``1d12h``."""

from __future__ import annotations

import re

from autopar.errors import ConfigError, refusal

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_FORM = re.compile("".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?){unit})?" for unit in _UNITS))
_RULE = "a duration is numbers with the units d, h, m and s, the longest unit first, and longer than nothing"


def parse_duration(text: str, where: str = "duration") -> float:
    """The seconds that a text means. Raises ConfigError; `where` names the option in it.

    >>> parse_duration("90s"), parse_duration("3h50m"), parse_duration("1.5h")
    (90.0, 13800.0, 5400.0)
    """
    match = _FORM.fullmatch(text.strip().lower())
    said = {unit: number for unit, number in match.groupdict().items() if number} if match else {}
    seconds = sum(_UNITS[unit] * float(number) for unit, number in said.items())
    if not seconds:
        bare = re.fullmatch(r"\d+(\.\d+)?", text.strip())
        fix = f"{text.strip()}s for seconds, {text.strip()}m for minutes" if bare else "write e.g. 90s, 15m or 3h50m"
        raise ConfigError(refusal(where, f"{text!r} is no duration", _RULE, fix=fix))
    return float(seconds)


def duration_text(seconds: float) -> str:
    """A duration for people, to the second.

    >>> duration_text(13800), duration_text(75.4), duration_text(0.2)
    ('3h50m', '1m15s', '0s')
    """
    left, words = round(seconds), []
    for unit, size in _UNITS.items():
        number, left = divmod(left, size)
        words += [f"{number}{unit}"] if number else []
    return "".join(words) or "0s"
