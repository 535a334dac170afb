"""Which rows of a whole tensor this rank holds, as a program says it: ``over={0: (DATA, 8), 2: (MODEL, 1024)}``.

`over` names the split dims, for each the axis and the extent of the whole dim. A dim that is read as ``blocks x m x unit`` to
be cut (`autopar.ir.layout.Shard`) has ``(MODEL, 2304, 3, 64)``; one that several axes cut has a tuple of such entries, the
outermost axis first. Operators whose result depends on the place of a row ask for it here: a causal mask, random numbers.

For random numbers of a micro-batch ``{"batch": 0}`` says in which dim the rows of the batch are, ``{"batch": (0, 2, 64)}`` as
what that dim is read: `BatchRows` places them in the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autopar.runtime.grid.grid import Axis

Entry = tuple[Axis, int] | tuple[Axis, int, int, int]
Place = Entry | tuple[Entry, ...]
Over = Mapping[Any, Any]  # of dims (int) the places, of BATCH where the batch's rows are
BATCH = "batch"
Rows = range | Tensor  # an interval, or the ascending numbers of the rows


def entries(place: Place) -> tuple[Entry, ...]:
    """One entry per axis that cuts the dim, outermost first."""
    return (place,) if isinstance(place[0], Axis) else place


def axes_of(place: Place | None) -> tuple[Axis, ...]:
    """The axes that cut the dim."""
    return () if place is None else tuple(entry[0] for entry in entries(place))


def extent_of(place: Place) -> int:
    """The extent of the whole dim."""
    return entries(place)[0][1]


def rows_of(place: Place) -> Rows:
    """The rows of the whole dim that this rank holds."""
    extent = extent_of(place)
    taken: dict[tuple[int, int], tuple[int, int]] = {}
    for axis, _, *reading in entries(place):
        blocks, unit = reading or (1, 1)
        low, high = taken.get((blocks, unit), (0, extent // (blocks * unit)))
        bounds = axis.bounds(high - low)
        taken[blocks, unit] = low + bounds[axis.index], low + bounds[axis.index + 1]
    if len(taken) == 1 and next(iter(taken))[0] == 1:
        ((_, unit), (low, high)), *_ = taken.items()
        return range(low * unit, high * unit)
    every = torch.arange(extent)
    kept = torch.ones(extent, dtype=torch.bool)
    for (blocks, unit), (low, high) in taken.items():
        at = every // unit % (extent // (blocks * unit))
        kept &= (at >= low) & (at < high)
    return every[kept]


def take_rows(x: Tensor, dim: int, rows: Rows) -> Tensor:
    """These rows of a dim; a view where they are an interval."""
    if isinstance(rows, range):
        return x.narrow(dim, rows.start, len(rows))
    return x.index_select(dim, rows.to(x.device))


def whole_shape(shape: Sequence[int], over: Over) -> tuple[int, ...]:
    """The shape of the whole tensor of which this rank's part has `shape`."""
    return tuple(extent_of(over[dim]) if dim in over else n for dim, n in enumerate(shape))


@dataclass(frozen=True, slots=True)
class BatchRows:
    """The rows of a micro-batch among those of its batch: from `start` on, of `whole` rows."""

    start: int
    whole: int

    def placed(self, extent: int, rows: Rows, blocks: int = 1, unit: int = 1) -> tuple[int, Rows]:
        """The extent of a dim in the whole batch, and rows of it, from those of the micro-batch.

        >>> BatchRows(4, 7).placed(3, range(3)), BatchRows(1, 2).placed(4, range(4), 2, 2)[1]
        ((7, range(4, 7)), tensor([2, 3, 6, 7]))
        """
        size = extent // blocks
        whole = self.whole * unit
        if blocks == 1:
            shift = self.start * unit
            return whole, range(rows.start + shift, rows.stop + shift) if isinstance(rows, range) else rows + shift
        every = torch.tensor(list(rows)) if isinstance(rows, range) else rows
        return blocks * whole, every // size * whole + every % size + self.start * unit
