"""The numbers of a batch's rows, ``arange(rows)``, and what is picked by them: ``logits[arange(rows), last]``.

A micro-batch numbers its own rows from 0 on. That is right where the numbers say from which row of the batch to pick, since a
micro-batch has no other rows; whatever else is computed from them would be another number than in the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from autopar.ir.graph import Ref
from autopar.ir.layout import Replicate, Shard
from autopar.partitioner.microbatches.batch_letter import CallPair
from autopar.partitioner.microbatches.time_layouts import RowNumbers, Stuck, TimeLayout


def counts_rows(pair: CallPair) -> bool:
    """Whether a call makes the numbers of the batch's rows."""
    ends = pair.here.node.args[:1], pair.there.node.args[:1]
    return pair.here.node.target == "aten.arange.default" and ends == ((pair.rows,), (pair.other,))


def picked_rows(pair: CallPair, layouts: Sequence[TimeLayout]) -> Shard:
    """How the result lies of a call that picks from the rows of the batch by their numbers. Raises Stuck for any other."""
    item = pair.here
    numbered = [i for i, layout in enumerate(layouts) if isinstance(layout, RowNumbers)]
    if item.node.target != "aten.index.Tensor" or not item.ruled or len(numbered) != 1:
        raise Stuck(_WHY)
    (at,) = numbered
    layout, indices = layouts[at], item.node.args[1]
    assert isinstance(layout, RowNumbers)
    assert isinstance(indices, tuple)
    counted = [dim for dim, index in enumerate(indices) if isinstance(index, Ref)]  # by the operands 1, 2, ...
    letters = item.rule.operands[at][layout.dim]
    kept = [dim for dim, names in enumerate(item.rule.results[0]) if letters and names == letters]
    beside = [one for i, one in enumerate(layouts) if i not in (0, at) and not _beside(pair, i, one, letters)]
    if at == 0 or layouts[0] != Shard(counted[at - 1]) or len(kept) != 1 or beside:
        raise Stuck(_WHY)
    return Shard(kept[0])


_WHY = "it has to know which rows of the batch it computes"


def _beside(pair: CallPair, operand: int, layout: TimeLayout, letters: tuple[str, ...]) -> bool:
    """Whether another index is the same for all rows, or has one for each."""
    if isinstance(layout, Shard):
        dims = pair.here.rule.operands[operand]
        return (layout.blocks, layout.unit) == (1, 1) and dims[layout.dim] == letters
    return isinstance(layout, Replicate)
