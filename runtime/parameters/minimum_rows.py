"""Factors of which every rank must hold a row, because an operator refuses an empty part: channels, groups.

The planner splits such a factor only where balanced bounds leave every rank a row. Cuts that move afterwards must leave
one too. A factor is given as the axes that cut it, the outermost first, and its extent; the second axis cuts what the
first has left. An axis that must leave every position n rows of m needs a share of n / m for each: a part of at least
n / m of the axis holds n rows or more, wherever its boundaries are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from autopar.errors import ConfigError, refusal
from autopar.runtime.grid.planned_axis import CutAxis
from autopar.runtime.program.plan_reader import MinimumRows


def least_share(axes: Sequence[CutAxis], moved: int, filled: Sequence[MinimumRows]) -> float:
    """The least share of an axis that each of its positions needs, the other axes' cuts being what they are."""
    name, live = axes[moved].name, {axis.name: axis for axis in axes}
    shares = [0.0]
    for names, extent in filled:
        if name in names:
            at = names.index(name)
            rows = extent
            for outer in names[:at]:
                rows = min(_parts(live[outer].bounds(rows)))
            needed = 1
            for inner in reversed(names[at + 1 :]):
                needed = _rows_for(live[inner], needed)
            shares.append(needed / max(rows, 1))
    return max(shares)


def check_minimum_rows(
    axes: Sequence[CutAxis], filled: Sequence[MinimumRows], where: str = "cuts", fix: str = "cut less unevenly"
) -> None:
    """Raise ConfigError, with all offenders, where the axes' cuts leave a rank without a row of a filled factor."""
    offenders = missing_rows(axes, filled)
    if offenders:
        rule = "an operator of this program needs a row on every rank: its channels or groups are split over the axis"
        current = ", ".join(f"{axis.name} at {axis.cuts}" for axis in axes if axis.cuts is not None)
        raise ConfigError(refusal(where, current or "balanced", rule, offenders, fix))


def missing_rows(axes: Sequence[CutAxis], filled: Sequence[MinimumRows]) -> list[str]:
    """The filled factors of which some rank would have no row, each as a line."""
    live = {axis.name: axis for axis in axes}
    offenders = []
    for names, extent in filled:
        parts = [extent]
        for name in names:
            parts = [part for rows in parts for part in _parts(live[name].bounds(rows))]
        if not all(parts):
            offenders.append(f"{extent} rows over {' and '.join(names)} would be cut into {parts}")
    return offenders


def _parts(bounds: Sequence[int]) -> list[int]:
    return [high - low for low, high in pairwise(bounds)]


def _rows_for(axis: CutAxis, needed: int) -> int:
    """How many rows an axis must be given so that each position gets as many as `needed`."""
    if axis.cuts is None:
        return needed * axis.size
    smallest = min(high - low for low, high in pairwise(axis.cuts))
    return math.ceil(needed / max(smallest, 1e-9) - 1e-9)
