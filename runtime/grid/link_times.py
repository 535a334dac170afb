"""Which ranks have a slow link between them: how long the ranks of every line of the grid communicate with each other.

A line are the ranks that differ in their place on one axis only. The rank of a line that waits least for the others
communicates for about as long as its messages take, so the least of a line's seconds says how fast its links are. Sums over
several axes at once belong to no line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_high

from autopar.ir.grid import GridShape, unravel

_ALL = 4  # ranks that are named one by one


@dataclass(frozen=True, slots=True)
class GridLine:
    """An axis, by number and name, and the ranks along it.

    >>> str(GridLine(1, "axis1", (2, 3)))
    'over axis1 between ranks 2, 3'
    """

    axis: int
    name: str
    ranks: tuple[int, ...]

    def __str__(self) -> str:
        several = len(self.ranks) > _ALL
        ranks = f"{self.ranks[0]} to {self.ranks[-1]}" if several else ", ".join(map(str, self.ranks))
        return f"over {self.name} between ranks {ranks}"


def lines_of(shape: GridShape) -> tuple[GridLine, ...]:
    """All lines of a grid without positions and replicas.

    >>> [line.ranks for line in lines_of(GridShape.parse("2x2"))]
    [(0, 2), (1, 3), (0, 1), (2, 3)]
    """
    found = []
    for axis, (name, size) in enumerate(zip(shape.names, shape.sizes, strict=True)):
        groups: dict[tuple[int, ...], list[int]] = {}
        for rank in range(shape.size):
            at = unravel(rank, shape.sizes)
            groups.setdefault((*at[:axis], *at[axis + 1 :]), []).append(rank)
        found += [GridLine(axis, name, tuple(ranks)) for ranks in groups.values() if size > 1]
    return tuple(found)


def line_seconds(lines: Sequence[GridLine], ranks: Sequence[Sequence[float]]) -> dict[GridLine, float]:
    """Of every line the seconds of the rank that has waited least; `ranks` are every rank's seconds by axis."""
    return {line: min(ranks[rank][line.axis] for rank in line.ranks) for line in lines}


def slowest(before: Sequence[Mapping[GridLine, float]], now: Sequence[Mapping[GridLine, float]], rise: float) -> str:
    """The line whose seconds have risen most, in words, if that is most of what communication has risen by."""
    rises = {line: _middle(now, line) - _middle(before, line) for line in (now[-1] if now else ())}
    worst = max(rises, key=rises.__getitem__, default=None)
    return "" if worst is None or rises[worst] < rise / 2 else str(worst)


def _middle(steps: Sequence[Mapping[GridLine, float]], line: GridLine) -> float:
    return median_high([step[line] for step in steps]) if steps else 0.0
