"""What convolutions and poolings share: spatial letters, their windows, and how a split one is printed.

A spatial letter is windowed (``h~``): result row j reads operand rows ``j*stride - padding + dilation*i``. Where it
is split, a rank needs rows of its neighbours, and the call becomes its distributed form in `autopar.runtime`, which
exchanges them. That also holds for a window of one row, where there is nothing to exchange: torch refuses an image
without rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from autopar.ops.record.rule import Call, Rule, Window

SPATIAL = {1: ("w",), 2: ("h", "w"), 3: ("d", "h", "w")}


def spread(value: object, count: int, default: int) -> tuple[int, ...]:
    """A size given as a number, a tuple of one, a tuple of `count`, or not at all."""
    sizes = value if isinstance(value, tuple) else (value,)
    sizes = tuple(default if size is None else size for size in sizes) or (default,)
    numbers = tuple(int(size) for size in sizes if isinstance(size, int))
    return numbers * count if len(numbers) == 1 else numbers


def collapse(numbers: Sequence[int]) -> object:
    """One number where all are the same."""
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)


def batch(call: Call, names: Sequence[str]) -> str:
    """``"n "`` where operand 0 has a batch dim before channels and space, as written in a notation."""
    return "n " if len(call.operands[0].shape) == len(names) + 2 else ""


def marks(names: Sequence[str]) -> str:
    """The spatial dims as written in a notation: ``h~ w~``."""
    return " ".join(f"{name}~" for name in names)


def with_windows(rule: Rule, windows: Sequence[Window], names: Sequence[str]) -> Rule:
    """The rule with the windows of its spatial letters."""
    return replace(rule, windows=dict(zip(names, windows, strict=True)))


def with_whole_space(rule: Rule, names: Sequence[str]) -> Rule:
    """The rule with the spatial letters frozen."""
    return replace(rule, frozen=rule.frozen | set(names))


def by_place(rule: Rule, names: Iterable[str]) -> Rule:
    """The rule with these letters cut plainly, each by one axis at most, so that the rows of a rank are one interval.

    Their rows know their place: an index counts them, a diagonal passes through them, a scan begins at them.
    """
    return replace(rule, windows={**rule.windows, **{name: Window(1) for name in names}})
