"""Where axes may be cut: fractions that rise from 0 to 1, which leave a row to every rank that needs one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autopar.errors import ConfigError, nearest, refusal
from autopar.ir.layout import are_cuts
from autopar.runtime.grid.planned_axis import CutAxis, PlannedAxis
from autopar.runtime.parameters.minimum_rows import missing_rows
from autopar.runtime.program.plan_reader import MinimumRows

Cuts = tuple[float, ...] | None
Boundaries = Mapping[str, Sequence[float] | None]
"""The cuts of axes, by name: fractions, ``size + 1`` of them, or None for balanced parts."""


def cuts_of(given: Boundaries) -> dict[str, Cuts]:
    """The cuts of axes, by name, as they are kept."""
    return {name: None if cuts is None else tuple(map(float, cuts)) for name, cuts in given.items()}


def differences(axes: Sequence[CutAxis], cuts: Boundaries) -> str:
    """Which axes would be cut elsewhere than now, in words; empty where none would."""
    other = {axis.name: at for axis in axes if (at := cuts_of(cuts).get(axis.name, axis.cuts)) != axis.cuts}
    texts = (f"{name} {'balanced' if at is None else f'at {at}'}" for name, at in other.items())
    return f"boundaries, {', '.join(texts)}" if other else ""


def illegal(axes: Sequence[CutAxis], cuts: Mapping[str, Cuts], filled: Sequence[MinimumRows]) -> list[str]:
    """What speaks against cutting axes, by name, so: a line for each offender, none where they are legal."""
    names = [axis.name for axis in axes]
    lines = [f"there is no axis {name!r}{nearest(name, names)}" for name in cuts if name not in names]
    wrong = [axis for axis in axes if not are_cuts(axis.size, cuts.get(axis.name))]
    lines += [
        f"{axis.name} at {cuts[axis.name]}: it has {axis.size} ranks, and its cuts are {axis.size + 1} fractions that rise "
        "from 0 to 1"
        for axis in wrong
    ]
    return lines if wrong else lines + missing_rows(planned(axes, cuts), filled)


def planned(axes: Sequence[CutAxis], cuts: Mapping[str, Cuts]) -> list[PlannedAxis]:
    """The axes under other cuts; those that are not named keep theirs."""
    return [PlannedAxis(axis.name, axis.size, axis.index, cuts.get(axis.name, axis.cuts)) for axis in axes]


def check_cuts(axes: Sequence[CutAxis], cuts: Mapping[str, Cuts], filled: Sequence[MinimumRows]) -> None:
    """Raise ConfigError, with all offenders, where axes cannot be cut so."""
    lines = illegal(axes, cuts, filled)
    if lines:
        given = ", ".join(f"{name} at {'balanced' if at is None else at}" for name, at in cuts.items())
        rule = "an axis is cut at fractions that rise, and operators whose channels or groups are split need a row on every rank"
        raise ConfigError(refusal("moving boundaries", given, rule, lines, "cut less unevenly"))
