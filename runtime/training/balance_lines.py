"""What the scheduler did, and why, or why it did nothing: in lines for people."""

from __future__ import annotations

from collections.abc import Sequence

from autopar.partitioner.cuts.rank_work import AxisCuts
from autopar.runtime.training.load_balance import Move, described


def moved(names: Sequence[str], step: int, move: Move) -> str:
    """A move of the axes with these names after a step: where to, why, and what for."""
    changed = zip(names, move.former, move.cuts, strict=True)
    where = " and ".join(f"{name} {cut_at(new)}" for name, old, new in changed if old != new)
    milliseconds = [seconds * 1e3 for seconds in (move.before, move.after, move.least)]
    compute = "{:.1f} ms of compute per step, {:.1f} predicted, {:.1f} if it could be divided at will".format(
        *milliseconds
    )
    return f"{where} after step {step}: {described(move.speeds)}; {compute}"


def summary(lines: Sequence[str], reason: str) -> str:
    """All that was done, and why no more.

    >>> summary([], "there is one rank")
    'nothing moved: there is one rank'
    """
    if not lines:
        return f"nothing moved: {reason}"
    times = "once" if len(lines) == 1 else f"{len(lines)} times"
    return f"moved {times}; now: {reason}"


def cut_at(cuts: AxisCuts) -> str:
    """Where an axis is cut, in words.

    >>> cut_at((0.0, 2 / 3, 1.0)), cut_at(None)
    ('to 0.667', 'to equal parts')
    """
    return "to equal parts" if cuts is None else f"to {', '.join(f'{cut:.3f}' for cut in cuts[1:-1])}"
