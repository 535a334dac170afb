"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

from autopar.errors import ConfigError, refusal

_UNITS = {"": 1, "b": 1} | {
    (prefix + suffix).lower(): base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}


def parse_bytes(text: str | float) -> int:
    """A number of bytes: ``"12GiB"``, ``"1.5 GB"``, ``"512MiB"``, ``"4096"``, or a number. Raises ConfigError.

    >>> parse_bytes("12GiB") == 12 * 2**30
    True
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:[eE]\+?\d+)?)\s*([KMGT]?i?B?)\s*", str(text), re.IGNORECASE)
    if isinstance(text, bool) or found is None or found.group(2).lower() not in _UNITS:
        rule = "bytes are a number and a unit out of B, KB, KiB, MB, MiB, GB, GiB, TB, TiB"
        raise ConfigError(refusal(f"size {str(text)!r}", "not a number of bytes", rule, fix="write e.g. 12GiB"))
    return int(float(found.group(1)) * _UNITS[found.group(2).lower()])
