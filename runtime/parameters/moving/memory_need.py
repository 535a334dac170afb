"""What the ranks would hold under other cuts, against the limit that the plan was made for.

    between steps   parameters, buffers, gradients and the optimizers' state, by their exact local shapes
    while moving    the larger of before and after, one batch of new parts, and its messages
    in a step       what stands between steps, and what the plan predicts beside it: whole inputs, what backward keeps, buffers,
                    what comes and goes. The plan says it of its own cuts; where a rank's shares of axes are larger, it is
                    taken to grow as they do

A rank whose shares are no larger than the plan's is as the plan has it, and is not looked at for its steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from autopar.errors import ConfigError, refusal
from autopar.ir.units import bytes_precisely
from autopar.runtime.grid.grid import Grid
from autopar.runtime.grid.planned_axis import PlannedAxis
from autopar.runtime.parameters.moving.contents import Held, Optimizers, bytes_per_element
from autopar.runtime.parameters.moving.exchange import Moving, batches
from autopar.runtime.parameters.moving.owners import Repartitions, weighed
from autopar.runtime.program.plan_reader import Description

_ROUNDED = 1 + 1e-9


def over_limit(
    grid: Grid,
    description: Description,
    repartitions: Repartitions,
    held: Sequence[Held],
    optimizers: Optimizers,
    moving: Sequence[Moving] = (),
    piece: int = 0,
) -> list[str]:
    """The ranks at this place that would hold more than they may, each as a line, by what this rank has of every tensor."""
    held_sizes = [(item.shape, layouts, _size(tensor, optimizers)) for item, layouts, tensor in held]
    sizes = weighed(repartitions, held_sizes)
    first = grid.comm.rank - grid.group.rank  # of this place
    batched = list(batches(moving, piece))
    lines = []
    for rank in range(grid.group.size):
        limit = description.limit(first + rank)
        if limit is None:
            return []
        before = sum(of.elements(rank, moved=False) * size for of, size in sizes)
        after = sum(of.elements(rank, moved=True) * size for of, size in sizes)
        extra = max((_beside(batch, rank, piece) for batch in batched), default=0)
        grown = _grown(repartitions.axes(rank), [grid.shape.cuts_of(i) for i in range(len(grid.axes))])
        step = after + description.predicted.beside * grown if grown > _ROUNDED else 0
        most = max(max(before, after) + extra, step)
        if most > limit:
            lines.append(f"rank {first + rank} would hold {bytes_precisely(most, up=True)} of {bytes_precisely(limit)}")
    return lines


def check_memory(lines: Sequence[str]) -> None:
    """Raise ConfigError for what `over_limit` says."""
    if lines:
        rule = "under any cuts a rank holds no more than the limit that the plan was made for"
        fix = "cut less unevenly, or compile with another --memory"
        raise ConfigError(refusal("moving boundaries", "some ranks would hold too much", rule, lines, fix))


def _size(tensor: Tensor, optimizers: Optimizers) -> int:
    """Bytes per element: its own, its gradient's, which a trained parameter will have again, and those of its state."""
    return bytes_per_element(tensor, optimizers) + (
        tensor.element_size() if tensor.requires_grad and tensor.grad is None else 0
    )


def _beside(batch: Sequence[Moving], rank: int, piece: int) -> int:
    """What a rank holds while a batch moves, beside what it holds anyway: new parts, and messages in both directions."""
    parts = sum(math.prod(one.repartition.shape(rank)) * one.of.dtype.itemsize for one in batch)
    sent = sum(one.repartition.sent[rank] * one.of.dtype.itemsize for one in batch)
    return parts + 2 * min(piece, sent)


def _grown(axes: Sequence[PlannedAxis], planned: Sequence[tuple[float, ...]]) -> float:
    """By what factor a rank's shares are larger than the plan's, all axes together; 1 where none is."""
    before = [replace(axis, cuts=cuts or None) for axis, cuts in zip(axes, planned, strict=True)]
    return math.prod(max(1.0, _share(now) / max(_share(then), 1e-9)) for now, then in zip(axes, before, strict=True))


def _share(axis: PlannedAxis) -> float:
    return 1 / axis.size if axis.cuts is None else axis.cuts[axis.index + 1] - axis.cuts[axis.index]
