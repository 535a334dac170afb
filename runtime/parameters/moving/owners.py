"""Who holds which rows before and after boundaries move: arithmetic that every rank does alike, without a message.

Let P be the rows that a rank holds of every dim before, and Q those after. Ranks that agree on all axes over which a tensor is
not sharded hold it once between them, before and after. Among these, and they are a rank's peers, rank i sends to rank j

    P_i meets Q_j        every row that changes owner, once

and what P_i has in common with Q_i stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from autopar.ir.grid import unravel
from autopar.ir.layout import Layouts, Shard
from autopar.runtime.grid.grid import Grid
from autopar.runtime.grid.planned_axis import PlannedAxis
from autopar.runtime.parameters.moving.legal_cuts import Cuts
from autopar.runtime.parameters.moving.regions import Region, count, overlap
from autopar.runtime.parameters.shards import Runs, rows

DimRows = tuple[Runs, ...]  # of every dim


@dataclass(frozen=True, slots=True)
class Repartition:
    """Tensors of one shape and layouts: of every rank of the group its rows before and after, and its peers in order.

    `sent` are the elements that each rank sends, `largest` those of the largest part of any rank, before or after.
    """

    before: tuple[DimRows, ...]
    after: tuple[DimRows, ...]
    peers: tuple[tuple[int, ...], ...]
    sent: tuple[int, ...] = ()
    largest: int = 0

    def counted(self) -> Repartition:
        """With what the ranks send, and the largest part."""
        ranks = range(len(self.peers))
        sent = [sum(self.handed(i, j)[0].numel for j in self.peers[i] if i != j) if self.moves else 0 for i in ranks]
        return replace(self, sent=tuple(sent), largest=max(Region(one).numel for one in (*self.before, *self.after)))

    @property
    def moves(self) -> bool:
        """Whether any rank's rows change."""
        return self.before != self.after

    def handed(self, source: int, target: int) -> tuple[Region, Region]:
        """What one rank hands to another, or keeps where both are one: where it lies in the old part, and in the new one."""
        pairs = [overlap(old, new) for old, new in zip(self.before[source], self.after[target], strict=True)]
        return Region(tuple(old for old, _ in pairs)), Region(tuple(new for _, new in pairs))

    def elements(self, rank: int, *, moved: bool) -> int:
        """The elements of a rank's part, before or after."""
        return Region((self.after if moved else self.before)[rank]).numel

    def shape(self, rank: int) -> tuple[int, ...]:
        """The shape of a rank's new part."""
        return tuple(map(count, self.after[rank]))


class Repartitions:
    """The repartitions of a grid whose axes are to be cut elsewhere, one for each shape and layouts."""

    def __init__(self, grid: Grid, cuts: Mapping[str, Cuts]) -> None:
        self.ranks = grid.group.size
        self._sizes = grid.shape.sizes
        self._names = [axis.name for axis in grid.axes]
        self._before = [axis.cuts for axis in grid.axes]
        self._after = [cuts.get(axis.name, axis.cuts) for axis in grid.axes]
        self._known: dict[tuple[Sequence[int], Layouts], Repartition] = {}

    def of(self, shape: tuple[int, ...], layouts: Layouts) -> Repartition:
        """Of tensors of this whole shape that lie so."""
        if (shape, layouts) not in self._known:
            self._known[shape, layouts] = self._made(shape, layouts)
        return self._known[shape, layouts]

    def axes(self, rank: int) -> list[PlannedAxis]:
        """The axes as they will be cut, seen from a rank of the group."""
        return self._axes(unravel(rank, self._sizes), self._after)

    def _axes(self, position: Sequence[int], cuts: Sequence[Cuts]) -> list[PlannedAxis]:
        return list(map(PlannedAxis, self._names, self._sizes, position, cuts))

    def _made(self, shape: tuple[int, ...], layouts: Layouts) -> Repartition:
        positions = [unravel(rank, self._sizes) for rank in range(self.ranks)]
        cutting = [i for i, layout in enumerate(layouts) if isinstance(layout, Shard)]

        @cache
        def held(at: tuple[int, ...], moved: bool) -> DimRows:
            position = [0] * len(layouts)
            for i, index in zip(cutting, at, strict=True):
                position[i] = index
            return rows(shape, layouts, self._axes(position, self._after if moved else self._before))

        at = [tuple(position[i] for i in cutting) for position in positions]
        groups: dict[tuple[int, ...], list[int]] = {}
        copies = [tuple(index for i, index in enumerate(position) if i not in cutting) for position in positions]
        for rank, copy in enumerate(copies):
            groups.setdefault(copy, []).append(rank)
        return Repartition(
            tuple(held(one, False) for one in at),
            tuple(held(one, True) for one in at),
            tuple(tuple(groups[copy]) for copy in copies),
        ).counted()


def weighed(
    repartitions: Repartitions, held: Sequence[tuple[tuple[int, ...], Layouts, int]]
) -> list[tuple[Repartition, int]]:
    """Of each kind of tensor its repartition, and the bytes per element of all of them together."""
    sizes: dict[tuple[tuple[int, ...], Layouts], int] = {}
    for shape, layouts, size in held:
        sizes[shape, layouts] = sizes.get((shape, layouts), 0) + size
    return [(repartitions.of(*kind), size) for kind, size in sizes.items()]
