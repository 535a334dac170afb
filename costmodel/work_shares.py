"""By which cuts of the grid's axes the compute of a step gets smaller, so that the runtime knows what moving a boundary does.

A call that is split does the part of its work that its rank's rows are, beside what every call costs to start; one that is
not split does all of it on every rank. With x_a the share that a rank has of axis a, its seconds are

    T = sum over sets S of axes of w_S * prod_{a in S} x_a

and w_S is summed here over the calls of a step, and over the updates of its parameters. Shares are those of rows, of which
there is a whole number; so S is kept as the factors that are cut, each with the axes that cut it and its extent.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from autopar.costmodel.compute import local_share
from autopar.costmodel.local_shapes import local_shape
from autopar.ir.grid import GridShape
from autopar.ir.layout import Layouts, Shard
from autopar.ir.machine import Machine, crowding
from autopar.ops.record.rule import Choice, Rule

Key = TypeVar("Key", bound=Hashable)
Factor = tuple[tuple[str, ...], int]
"""Rows that are cut: the axes that cut them, the outermost first, and how many there are."""
Cuts = tuple[Factor, ...]
Work = tuple[Cuts, float]
"""Seconds of what is undivided, and the factors whose cuts make it smaller."""


def call_work(
    rule: Rule, choices: tuple[Choice, ...], seconds: tuple[float, float], times: int, grid: GridShape, machine: Machine
) -> tuple[Work, Work]:
    """What a call costs to start, and what of it is divided; `seconds` are those of forward and backward, for all `times`."""
    floor = machine.launch_floor * crowding(machine, grid) * times
    started = sum(min(part, floor) for part in seconds)
    cut = [(axis, choice) for axis, choice in enumerate(choices) if choice.mode == "split"]
    split = [(axis, (choice.letter, choice.blocks, choice.unit)) for axis, choice in cut]
    extents = {key: rule.extents[key[0]] // (key[1] * key[2]) for _, key in split}
    share = local_share(rule, choices, grid)
    return ((), started), (_factors(split, extents, grid), (sum(seconds) - started) / (share or 1.0))


def update_work(shape: tuple[int, ...], stored: Layouts, seconds: float, grid: GridShape) -> Work:
    """The update of a parameter that is stored so, `seconds` being those of its largest part."""
    cut = [(axis, layout) for axis, layout in enumerate(stored) if isinstance(layout, Shard)]
    split = [(axis, (layout.dim, layout.blocks, layout.unit)) for axis, layout in cut]
    extents = {key: shape[key[0]] // (key[1] * key[2]) for _, key in split}
    share = math.prod(local_shape(shape, stored, grid)) / max(math.prod(shape), 1)
    return _factors(split, extents, grid), seconds / (share or 1.0)


def summed(works: Iterable[tuple[int, Work]]) -> tuple[tuple[int, Cuts, float], ...]:
    """Works of segments, added up by what cuts them: (segment, factors, seconds), in order."""
    totals: dict[tuple[int, Cuts], float] = {}
    for segment, (cuts, seconds) in works:
        totals[segment, cuts] = totals.get((segment, cuts), 0.0) + seconds
    return tuple((segment, cuts, seconds) for (segment, cuts), seconds in sorted(totals.items()) if seconds > 0)


def _factors(split: Iterable[tuple[int, Key]], extents: Mapping[Key, int], grid: GridShape) -> Cuts:
    """The factors that axes of more than one rank cut."""
    names: dict[Key, list[str]] = {}
    for axis, key in split:
        if grid.sizes[axis] > 1:
            names.setdefault(key, []).append(grid.names[axis])
    return tuple(sorted((tuple(axes), extents[key]) for key, axes in names.items()))
