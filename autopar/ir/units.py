"""Bytes, and bytes per second, as people write and read them."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from autopar.errors import ConfigError, refusal

_LARGEST_DENOMINATOR = 10_000
_BINARY = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_RATES = (("GB/s", 1e9), ("MB/s", 1e6), ("KB/s", 1e3))
_UNITS = {"": 1, "b": 1} | {
    (prefix + suffix).lower(): base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}

KEPT = 3.0  # times what is held that a process came to keep for the next step, see docs/results.md


def parse_bytes(text: str | float) -> int:
    """A number of bytes: ``"12GiB"``, ``"1.5 GB"``, ``"512MiB"``, ``"4096"``, or a number. Raises ConfigError.

    >>> parse_bytes("12GiB") == 12 * 2**30
    True
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:[eE]\+?\d+)?)\s*([KMGT]?i?B?)\s*", str(text), re.IGNORECASE)
    if isinstance(text, bool) or match is None or match.group(2).lower() not in _UNITS:
        rule = "bytes are a number and a unit out of B, KB, KiB, MB, MiB, GB, GiB, TB, TiB"
        raise ConfigError(refusal(f"size {str(text)!r}", "not a number of bytes", rule, fix="write e.g. 12GiB"))
    return int(float(match.group(1)) * _UNITS[match.group(2).lower()])


def bytes_text(count: float) -> str:
    """Three digits: ``1.5 MiB``.

    >>> bytes_text(41.3 * 2**20)
    '41.3 MiB'
    """
    unit, size = next((entry for entry in _BINARY if count >= 1023.5 / 1024 * entry[1]), ("B", 1))
    shown = count / size
    return f"{shown:.3g} {unit}" if shown < 999.5 else f"{shown:.0f} {unit}"


def bytes_precisely(count: float, *, up: bool = False) -> str:
    """Two digits behind the point: ``1.25 GiB``; with `up` as an option's value, not less than `count`: ``1.25GiB``."""
    unit, size = next((entry for entry in _BINARY[1:] if count >= entry[1]), ("B", 1))
    return f"{math.ceil(count / size * 100) / 100:.2f}{unit}" if up else f"{count / size:.2f} {unit}"


def bytes_exact(count: float) -> str:
    """``64KiB``, or plain bytes where that is not exact."""
    for unit, size in _BINARY[2:]:
        if count % size == 0 and count:
            return f"{int(count) // size}{unit}"
    return f"{count:.12g}"


def rate_text(per_second: float) -> str:
    """``6.42 GB/s``."""
    unit, size = next((entry for entry in _RATES if per_second >= entry[1]), ("B/s", 1.0))
    return f"{per_second / size:.3g} {unit}"


def fraction_text(number: float) -> str:
    """A number as the quotient of small numbers that it is, where it is one.

    >>> fraction_text(2 / 3), fraction_text(1.0)
    ('2 / 3', '1')
    """
    near = Fraction(number).limit_denominator(_LARGEST_DENOMINATOR)
    return str(near).replace("/", " / ") if float(near) == number else repr(number)


def gives_back(held: float, limit: float | None) -> bool:
    """Whether freed memory is given back: where keeping it may take a rank that holds so many bytes over its limit.

    >>> gives_back(2e9, 16e9), gives_back(6e9, 16e9), gives_back(6e9, None)
    (False, True, False)
    """
    return limit is not None and KEPT * held > limit
