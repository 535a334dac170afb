"""The entries of a machine profile's table: which there are, what each may be, and all that is wrong with a given table.

A profile is written as docs/machines.md tells. Here its table becomes the arguments of `autopar.ir.machine.Machine`,
except that links and fits stay tables of numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Any

from autopar.errors import ConfigError, nearest
from autopar.ir.graph import ITEMSIZE
from autopar.ir.units import parse_bytes

WORKS = ("matmul", "conv", "attention", "pointwise", "reduce", "memory")
OPTIMIZERS = ("sgd", "momentum", "adamw")
LOCAL_MOVES = ("slice", "fill", "zeros")
LINK_MOVES = ("gather", "scatter", "sum", "all_to_all", "halo", "gradient_sum")

# Every entry and its kind; `_MEANING` says what a kind allows.
_SCALARS = {
    "name": "text",
    "ranks_per_node": "count",
    "memory_bytes": "bytes",
    "memory_bandwidth": "rate",
    "launch_floor": "seconds",
    "overlap": "share",
}
_OPTIONAL = {
    "cores_per_node": "count",
    "nodes": "count",
    "overlap_inter": "share",
    "stall_rate": "seconds",
    "stall_seconds": "seconds",
}
_TABLES = {
    "intra": {"alpha": "seconds", "beta": "rate"},
    "inter": {"alpha": "seconds", "beta": "rate"},
    "flops": {dtype: "positive" for dtype in ITEMSIZE},
    "efficiency": {work: "fraction" for work in WORKS},
}
_OPTIONAL_TABLES = {
    "efficiency_backward": {work: "fraction" for work in WORKS},
    "update": {optimizer: "rate" for optimizer in OPTIMIZERS},
}
_RANKS = {"ranks": "numbers", "nodes": "numbers", "speed": "positive", "memory_bytes": "bytes"}
_LINKS = ("intra", "inter")
_OPERATOR = {"forward": "positive", "backward": "positive"}
_FIT = {"alpha": "seconds", "until": "sizes", "beta": "rates"}
_FITS: dict[str, tuple[str, ...]] = {"local": LOCAL_MOVES, "intra": LINK_MOVES, "inter": LINK_MOVES}
_MEANING = {
    "text": "a text",
    "count": "a whole number of at least 1",
    "bytes": 'a positive number of bytes, as 1e9 or "12GiB"',
    "rate": 'a positive number of bytes per second, as 1e9 or "6GiB"',
    "positive": "a positive number",
    "seconds": "a number of at least 0",
    "share": "a number from 0 to 1",
    "fraction": "a number above 0 and at most 1",
    "sizes": 'a list of rising numbers of bytes, as [65536, "1MiB"]',
    "rates": "a list of positive numbers of bytes per second, one more than until has",
    "ranks": "a whole number of at least 2",
    "numbers": 'numbers from 0 on, as "4-7" or "0,2,5-7"',
}


def read(table: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values of all entries by name, and what is wrong with them, one line each; values count if nothing is wrong."""
    wrong: list[str] = []
    tables = _TABLES | _OPTIONAL_TABLES
    entries = _entries(
        table, _SCALARS | _OPTIONAL, set(_SCALARS), "", wrong, also={*tables, "fits", "ranks", "operators"}
    )
    for key, kinds in tables.items():
        needed = set() if key in _OPTIONAL_TABLES else {"float32"} if key == "flops" else set(kinds)
        entries[key] = _entries(_table(table, key, wrong), kinds, needed, f"{key}.", wrong)
    entries["fits"] = _fits(_table(table, "fits", wrong), wrong)
    operators = _table(table, "operators", wrong)
    entries["operators"] = {
        name: _entries(_table(operators, name, wrong, "operators."), _OPERATOR, _OPERATOR, f"operators.{name}.", wrong)
        for name in operators
    }
    entries["ranks"] = _classes(table.get("ranks", []), entries.get("ranks_per_node") or 1, wrong)
    return entries, wrong


def intervals(text: str) -> list[tuple[int, int]]:
    """The first and last number of every part of a text as ``"0,2,5-7"``.

    >>> intervals("0,2,5-7")
    [(0, 0), (2, 2), (5, 7)]
    """
    ends = [part.split("-") for part in text.split(",")]
    return [(int(pair[0]), int(pair[-1])) for pair in ends]


def interval_text(ranks: Sequence[int]) -> str:
    """Rising numbers as a profile says them.

    >>> interval_text([0, 2, 5, 6, 7])
    '0,2,5-7'
    """
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and rank == spans[-1][-1] + 1:
            spans[-1].append(rank)
        else:
            spans.append([rank])
    return ",".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)


def _classes(source: object, ranks_per_node: int, wrong: list[str]) -> list[dict[str, Any]]:
    """The ``[[ranks]]`` tables: which ranks are meant, and what of theirs differs from the profile."""
    if not isinstance(source, list) or not all(isinstance(entry, dict) for entry in source):
        wrong.append("ranks: not a list of tables; write [[ranks]] in front of each")
        return []
    classes: list[dict[str, Any]] = []
    taken: list[tuple[int, int, str]] = []
    for i, table in enumerate(source):
        where = f"ranks[{i}]"
        entry = _entries(table, _RANKS, (), f"{where}.", wrong, also=_LINKS)
        for key in _LINKS:
            if key in table:
                entry[key] = _entries(
                    _table(table, key, wrong, f"{where}."), _TABLES[key], _TABLES[key], f"{where}.{key}.", wrong
                )
        which = [key for key in ("ranks", "nodes") if key in table]
        if len(which) != 1:
            wrong.append(
                f"{where}: {'both ranks and nodes say' if which else 'neither ranks nor nodes says'} which are meant"
            )
        elif entry[which[0]]:
            spans = _spans(entry[which[0]], ranks_per_node if which[0] == "nodes" else 1)
            wrong += [
                f"{where}: {_shared(*span, *other[:2])} of {other[2]} as well"
                for span in spans
                for other in taken
                if _meet(span, other)
            ]
            taken += [(*span, where) for span in spans]
        if not set(table) - {"ranks", "nodes"}:
            wrong.append(f"{where}: says nothing of its ranks; give speed, memory_bytes, intra or inter")
        classes.append(entry)
    return classes


def _spans(text: str, each: int) -> list[tuple[int, int]]:
    """First and last ranks, of nodes of so many ranks `each`."""
    return [(low * each, high * each + each - 1) for low, high in intervals(text)]


def _meet(span: tuple[int, int], other: tuple[int, int, str]) -> bool:
    return span[0] <= other[1] and other[0] <= span[1]


def _shared(low: int, high: int, first: int, last: int) -> str:
    """The ranks that two spans share, in words."""
    low, high = max(low, first), min(high, last)
    return f"rank {low} is one" if low == high else f"ranks {low} to {high} are some"


def _fits(table: dict[str, Any], wrong: list[str]) -> list[dict[str, Any]]:
    fits: list[dict[str, Any]] = []
    wrong += [f"fits.{place}: unknown{nearest(place, _FITS)}" for place in table if place not in _FITS]
    for place, moves in _FITS.items():
        group = _table(table, place, wrong, "fits.")
        ranks = {"ranks": "ranks"} if place != "local" and group else {}
        counts = _entries(group, ranks, set(ranks), f"fits.{place}.", wrong, also=moves)
        for move in moves:
            if move in group:
                entry = _table(group, move, wrong, f"fits.{place}.")
                fit = _entries(entry, _FIT, {"alpha", "beta"}, f"fits.{place}.{move}.", wrong)
                until, beta = fit.get("until", ()), fit.get("beta") or ()
                if beta and until is not None and len(beta) != len(until) + 1:
                    wrong.append(f"fits.{place}.{move}.beta: {entry['beta']!r} is not {_MEANING['rates']}")
                fits.append({"place": place, "move": move, "ranks": counts.get("ranks", 1)} | fit | {"until": until})
    return fits


def _table(source: dict[str, Any], key: str, wrong: list[str], prefix: str = "") -> dict[str, Any]:
    inner = source.get(key, {})
    if isinstance(inner, dict):
        return inner
    wrong.append(f"{prefix}{key}: {inner!r} is not a table")
    return {}


def _entries(
    source: dict[str, Any],
    kinds: dict[str, str],
    needed: Collection[str],
    prefix: str,
    wrong: list[str],
    also: Collection[str] = (),
) -> dict[str, Any]:
    """The values of one table; what is wrong with it is appended to `wrong`."""
    known = [*kinds, *sorted(also)]
    wrong += [f"{prefix}{key}: unknown{nearest(key, known)}" for key in source if key not in known]
    wrong += [f"{prefix}{key}: missing, {_MEANING[kinds[key]]}" for key in kinds if key in needed and key not in source]
    entries: dict[str, Any] = {}
    for key, kind in kinds.items():
        if key in source:
            entries[key] = _value(source[key], kind)
            if entries[key] is None:
                wrong.append(f"{prefix}{key}: {source[key]!r} is not {_MEANING[kind]}")
    return entries


def _value(value: object, kind: str) -> object:
    """The value as its kind demands, or None where it does not."""
    if kind == "text":
        return value if isinstance(value, str) and value else None
    if kind == "numbers":
        return _numbers(value)
    if kind in ("sizes", "rates"):
        return _list(value, "bytes" if kind == "sizes" else "rate", rising=kind == "sizes")
    if kind in ("bytes", "rate") and isinstance(value, str):
        try:
            value = parse_bytes(value)
        except ConfigError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    if (value == 0 and kind not in ("seconds", "share")) or (value > 1 and kind in ("share", "fraction")):
        return None
    if kind in ("count", "ranks"):
        return value if isinstance(value, int) and value >= (2 if kind == "ranks" else 1) else None
    return int(value) if kind == "bytes" else float(value)


def _numbers(value: object) -> str | None:
    """A text of numbers and spans of numbers, or a number, as text."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    text = text.replace(" ", "")
    if not re.fullmatch(r"\d{1,9}(-\d{1,9})?(,\d{1,9}(-\d{1,9})?)*", text):
        return None
    return text if all(low <= high for low, high in intervals(text)) else None


def _list(value: object, kind: str, rising: bool) -> tuple[float, ...] | None:
    entries = [_value(entry, kind) for entry in value] if isinstance(value, list | tuple) else [None]
    numbers = tuple(float(entry) for entry in entries if isinstance(entry, int | float))
    if len(numbers) < len(entries) or (rising and list(numbers) != sorted(set(numbers))):
        return None
    return numbers
