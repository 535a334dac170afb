"""A machine profile: from a TOML file to a frozen record of rates, latencies and sizes, all per MPI rank.

A profile says how fast one rank computes (peak per dtype times an efficiency per class of work, memory bandwidth, and a
floor per operator) and how fast two ranks exchange (alpha seconds per message, beta bytes per second) inside a node and
between nodes. `beta` is what one rank gets while all ranks of its node communicate at once. Nothing here is measured
while a model is compiled: the same profile gives the same plan everywhere.
"""

from __future__ import annotations

import functools
import math
import re
import tomllib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from autopar.errors import ConfigError, nearest, refusal
from autopar.graph import ITEMSIZE
from autopar.grid import GridShape

_FIX = "compare with a profile that ships with autopar, in autopar/configs/machines"
WORKS = ("matmul", "conv", "attention", "pointwise", "reduce", "memory")
_UNITS = {"": 1, "B": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}


@dataclass(frozen=True, slots=True)
class Link:
    """What a message costs: `alpha` seconds to start, then `beta` bytes per second."""

    alpha: float
    beta: float


@dataclass(frozen=True, slots=True)
class Machine:
    """One profile. Rates and sizes are those of one rank.

    name              of the profile
    ranks_per_node    consecutive ranks share a node
    memory_bytes      what one rank may hold
    memory_bandwidth  bytes per second, reads plus writes
    launch_floor      seconds that any operator takes
    overlap           share of the gradient sums that hides behind backward
    intra, inter      links between ranks of one node, and of two
    flops             peak operations per second by dtype
    efficiency        attainable share of the peak by class of work, see `WORKS`
    """

    name: str
    ranks_per_node: int
    memory_bytes: int
    memory_bandwidth: float
    launch_floor: float
    overlap: float
    intra: Link
    inter: Link
    flops: tuple[tuple[str, float], ...]
    efficiency: tuple[tuple[str, float], ...]

    def rate(self, work: str, dtype: str) -> float:
        """Operations per second that a class of work reaches; dtypes without a peak of their own count as float32."""
        peaks = dict(self.flops)
        return peaks.get(dtype, peaks["float32"]) * dict(self.efficiency)[work]


def parse_bytes(text: str | float) -> int:
    """A number of bytes: ``"12GiB"``, ``"1.5 GB"``, ``"512MiB"``, ``"4096"``, or a number. Raises ConfigError.

    >>> parse_bytes("12GiB") == 12 * 2**30
    True
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:[eE]\+?\d+)?)\s*([KMGT]?i?B?)\s*", str(text), re.IGNORECASE)
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    if isinstance(text, bool) or found is None or found.group(2).lower() not in units:
        rule = "bytes are a number and a unit out of B, KB, KiB, MB, MiB, GB, GiB, TB, TiB"
        raise ConfigError(refusal(f"size {str(text)!r}", "not a number of bytes", rule, fix="write e.g. 12GiB"))
    return int(float(found.group(1)) * units[found.group(2).lower()])


def load(name_or_path: str | Path) -> Machine:
    """The profile that ships under this name, or the one in this TOML file.

    Raises ConfigError for an unknown name, a file that is not TOML, and a profile with unknown, missing, negative or
    non-numeric entries: all of them in one message.
    """
    text, where = _read(name_or_path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(refusal(where, f"not TOML: {error}", "a profile is a TOML file", fix=_FIX)) from error
    return _record(table, where)


def check(machine: Machine) -> None:
    """Raise ConfigError unless the record's entries are such as those of a file must be."""
    tables = {"flops": dict(machine.flops), "efficiency": dict(machine.efficiency)}
    _record(asdict(machine) | tables, f"machine profile {machine.name!r}")


def shipped() -> tuple[str, ...]:
    """Names of the profiles that come with autopar."""
    folder = resources.files("autopar.configs") / "machines"
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


def _read(name_or_path: str | Path) -> tuple[str, str]:
    given = str(name_or_path)
    where = f"machine profile {given!r}"
    if given in shipped():
        return (resources.files("autopar.configs") / "machines" / f"{given}.toml").read_text("utf-8"), where
    if not (isinstance(name_or_path, Path) or given.endswith(".toml") or "/" in given):
        fix = f"use one of {', '.join(shipped())}, or the path of a .toml file"
        raise ConfigError(refusal(where, f"no such profile{nearest(given, shipped())}", "a profile exists", fix=fix))
    try:
        return Path(given).read_text("utf-8"), where
    except (OSError, UnicodeDecodeError) as error:
        rule = "a profile is a readable text file"
        raise ConfigError(refusal(where, "cannot be read", rule, [str(error)], _FIX)) from error


# Every entry and its kind; `_MEANING` says what a kind allows.
_SCALARS = {
    "name": "text",
    "ranks_per_node": "count",
    "memory_bytes": "bytes",
    "memory_bandwidth": "rate",
    "launch_floor": "seconds",
    "overlap": "share",
}
_TABLES = {
    "intra": {"alpha": "seconds", "beta": "rate"},
    "inter": {"alpha": "seconds", "beta": "rate"},
    "flops": {dtype: "positive" for dtype in ITEMSIZE},
    "efficiency": {work: "fraction" for work in WORKS},
}
_MEANING = {
    "text": "a text",
    "count": "a whole number of at least 1",
    "bytes": 'a positive number of bytes, as 1e9 or "12GiB"',
    "rate": 'a positive number of bytes per second, as 1e9 or "6GiB"',
    "positive": "a positive number",
    "seconds": "a number of at least 0",
    "share": "a number from 0 to 1",
    "fraction": "a number above 0 and at most 1",
}


def _record(table: dict[str, Any], where: str) -> Machine:
    offenders: list[str] = []
    scalars = _entries(table, _SCALARS, set(_SCALARS), "", offenders, also=set(_TABLES))
    tables: dict[str, dict[str, Any]] = {}
    for key, kinds in _TABLES.items():
        needed = {"float32"} if key == "flops" else set(kinds)
        inner = table.get(key, {})
        if not isinstance(inner, dict):
            offenders.append(f"{key}: {inner!r} is not a table")
            inner = {}
        tables[key] = _entries(inner, kinds, needed, f"{key}.", offenders)
    if offenders:
        rule = "a profile has every entry, no other, and values that make sense"
        raise ConfigError(refusal(where, f"{len(offenders)} entries are wrong", rule, offenders, _FIX))
    return Machine(
        **scalars,
        intra=Link(**tables["intra"]),
        inter=Link(**tables["inter"]),
        flops=tuple(sorted(tables["flops"].items())),
        efficiency=tuple(sorted(tables["efficiency"].items())),
    )


def _entries(
    given: dict[str, Any],
    kinds: dict[str, str],
    needed: set[str],
    prefix: str,
    offenders: list[str],
    also: Collection[str] = (),
) -> dict[str, Any]:
    """The values of one table; what is wrong with it is appended to `offenders`."""
    known = [*kinds, *sorted(also)]
    offenders += [f"{prefix}{key}: unknown{nearest(key, known)}" for key in given if key not in known]
    offenders += [f"{prefix}{key}: missing, {_MEANING[kinds[key]]}" for key in kinds if key in needed - set(given)]
    found: dict[str, Any] = {}
    for key, kind in kinds.items():
        if key in given:
            found[key] = _value(given[key], kind)
            if found[key] is None:
                offenders.append(f"{prefix}{key}: {given[key]!r} is not {_MEANING[kind]}")
    return found


def _value(given: object, kind: str) -> object:
    """The value as its kind demands, or None where it does not."""
    if kind == "text":
        return given if isinstance(given, str) and given else None
    if kind in ("bytes", "rate") and isinstance(given, str):
        try:
            given = parse_bytes(given)
        except ConfigError:
            return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given) or given < 0:
        return None
    if (given == 0 and kind not in ("seconds", "share")) or (given > 1 and kind in ("share", "fraction")):
        return None
    if kind == "count":
        return given if isinstance(given, int) else None
    return int(given) if kind == "bytes" else float(given)


@functools.lru_cache(maxsize=1024)
def axis_links(machine: Machine, grid: GridShape) -> tuple[Link, ...]:
    """The link that each axis uses: `intra` where all ranks of each of its groups share a node, otherwise `inter`.

    Ranks are numbered row-major over the grid, outermost axis first, and `ranks_per_node` consecutive ranks share a
    node.
    """
    nodes = (np.arange(grid.size) // machine.ranks_per_node).reshape(grid.sizes)
    return tuple(
        machine.intra if bool((nodes == nodes.take([0], axis=axis)).all()) else machine.inter
        for axis in range(len(grid.sizes))
    )
