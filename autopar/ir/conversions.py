"""The table of conversions: which primitive leads from which layout to which, and how its data and its gradient's move.

    slice, fill, zeros   a part out of a local tensor, a part put into zeros, a local tensor of zeros
    gather               all-gather        sum          all-reduce
    scatter              reduce-scatter    all_to_all   every rank sends to every other
    ""                   the local tensor as it is

The adjoint of a conversion `A -> B` is the conversion `dual(B) -> dual(A)`, so every row's second movement is the first one of
its mirror. The two cells that are missing are two primitives one after another: Partial to Copied is ``copy(all_sum)``,
Copied to Partial ``keep(once)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autopar.ir.layout import Copied, Layout, Partial, Replicate, Shard


@dataclass(frozen=True, slots=True)
class Primitive:
    """One row: the kinds of layout before and after, what moves forward and what for the adjoint."""

    before: type[Layout]
    after: type[Layout]
    forward: str
    adjoint: str

    @property
    def moves(self) -> tuple[str, str]:
        """Forward, adjoint."""
        return self.forward, self.adjoint

    @property
    def cuts(self) -> bool:
        """Whether the dim is whole before, and a shard after."""
        return self.after is Shard and self.before is not Shard

    @property
    def joins(self) -> bool:
        """Whether the dim is a shard before, and whole after."""
        return self.before is Shard and self.after is not Shard


PRIMITIVES: Mapping[str, Primitive] = {
    "split": Primitive(Replicate, Shard, "slice", "gather"),
    "keep": Primitive(Replicate, Partial, "zeros", ""),
    "copy": Primitive(Replicate, Copied, "", "sum"),
    "gather": Primitive(Shard, Replicate, "gather", "slice"),
    "all_to_all": Primitive(Shard, Shard, "all_to_all", "all_to_all"),
    "zero_fill": Primitive(Shard, Partial, "fill", "slice"),
    "all_gather": Primitive(Shard, Copied, "gather", "scatter"),
    "all_sum": Primitive(Partial, Replicate, "sum", ""),
    "reduce_scatter": Primitive(Partial, Shard, "scatter", "gather"),
    "once": Primitive(Copied, Replicate, "", "zeros"),
    "take": Primitive(Copied, Shard, "slice", "fill"),
}
_CELLS = {(row.before, row.after): name for name, row in PRIMITIVES.items()}


def primitive_of(before: Layout, after: Layout) -> str | None:
    """The primitive of this cell; None on the diagonal and for the two cells that are two primitives."""
    return None if before == after else _CELLS.get((type(before), type(after)))
