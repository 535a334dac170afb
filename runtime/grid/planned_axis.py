"""What the arithmetic of parts asks of an axis: a live one (`autopar.runtime.grid.grid.Axis`), or one as it would be cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from autopar.ir.layout import cut_bounds


class CutAxis(Protocol):
    """An axis seen from its position `index`."""

    @property
    def name(self) -> str:
        """As the grid calls it."""

    @property
    def size(self) -> int:
        """How many positions it has."""

    @property
    def index(self) -> int:
        """The position."""

    @property
    def cuts(self) -> tuple[float, ...] | None:
        """The fractions at which every dim is cut, ``size + 1`` of them, or None for balanced parts."""

    def bounds(self, extent: int) -> tuple[int, ...]:
        """Where a dim of `extent` rows is cut: position i holds rows ``bounds[i]:bounds[i+1]``."""


@dataclass(frozen=True, slots=True)
class PlannedAxis:
    """An axis under other cuts than the live one's, or from another position."""

    name: str
    size: int
    index: int
    cuts: tuple[float, ...] | None

    def bounds(self, extent: int) -> tuple[int, ...]:
        """Where a dim of `extent` rows is cut."""
        return cut_bounds(extent, self.size, self.cuts or ())
