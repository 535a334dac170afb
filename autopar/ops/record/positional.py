"""Letters whose rows know their place: an index counts them, a diagonal passes through them, a scan begins at them.

Such a letter is cut plainly, by one axis, so that the rows of a rank are one interval; the call is told the axis and
the whole extent, ``(MODEL, 50)``, or the first row, ``MODEL.start(50)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from autopar.ops.record.op import Expr, Local
from autopar.ops.record.rule import Rule, Window


def by_place(rule: Rule, names: Iterable[str]) -> Rule:
    """The rule with these letters cut plainly, each by one axis at most: windows of the row itself."""
    return replace(rule, windows={**rule.windows, **{name: Window(1) for name in names}})


def axis_of(local: Local, letter: str) -> str:
    """The axis that splits a letter, or nothing."""
    axes = local.splits.get(letter, ())
    assert len(axes) < 2, f"the letter {letter} is split over {axes}"
    return axes[0] if axes else ""


def over(rule: Rule, local: Local, letter: str) -> Expr | None:
    """``(MODEL, 50)``: the axis that splits a letter and its whole extent; None where it is whole."""
    axis = axis_of(local, letter)
    return Expr(f"({axis}, {rule.extents[letter]})") if axis else None


def start(rule: Rule, local: Local, letter: str) -> str:
    """``MODEL.start(50)``: the first row of this rank's part; empty where the letter is whole."""
    axis = axis_of(local, letter)
    return f"{axis}.start({rule.extents[letter]})" if axis else ""
