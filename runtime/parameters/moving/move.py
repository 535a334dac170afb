"""Moving the boundaries of axes between two steps, and with them whatever is sharded over them.

Parameters, buffers, gradients and the optimizers' state of the same shape move: only the rows that change owner travel. Tensors
that are not sharded over these axes stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters.moving.contents import Held, Optimizers, complete, every, held_parts
from autopar.runtime.parameters.moving.exchange import PIECE, Moving, exchange
from autopar.runtime.parameters.moving.legal_cuts import Cuts
from autopar.runtime.parameters.moving.owners import Repartition, Repartitions
from autopar.runtime.program.plan_reader import TensorSpec


def moved_bytes(grid: Grid, cuts: Mapping[str, Cuts], held: Sequence[Held], optimizers: Optimizers) -> list[int]:
    """What each rank at this place would send if axes were cut so, by what this rank has: exact, and without communication."""
    sent = [0] * grid.group.size
    for (_, _, tensor), repartition in moving(grid, cuts, held):
        size = sum(part.dtype.itemsize for part in held_parts(tensor, every(optimizers)))
        for rank in range(len(sent)):
            sent[rank] += repartition.sent(rank) * size
    return sent


def moving(grid: Grid, cuts: Mapping[str, Cuts], held: Sequence[Held]) -> list[tuple[Held, Repartition]]:
    """Which tensors move on any rank, and how."""
    repartitions = Repartitions(grid, cuts)
    pairs = [(one, repartitions.of(one[0].shape, one[1])) for one in held]
    return [(one, repartition) for one, repartition in pairs if repartition.moves]


def move(
    grid: Grid,
    cuts: Mapping[str, Cuts],
    held: Sequence[Held],
    optimizers: Optimizers = None,
    filters: torch.memory_format = torch.contiguous_format,
    piece: int = PIECE,
) -> None:
    """Set the cuts of axes, by name, and move the parts of all `held` tensors. Collective; alike on every rank.

    Parameters of four dims lie in the order `filters`. `piece` bounds messages, in bytes, see `exchange`. The cuts are legal.
    Raises ConfigError where the ranks' states differ.
    """
    known, pairs = every(optimizers), moving(grid, cuts, held)
    complete(grid.group, pairs, known)
    exchange(
        grid.group,
        [
            Moving(part, repartition, filters if _is_filter(item) else torch.contiguous_format)
            for (item, _, tensor), repartition in pairs
            for part in held_parts(tensor, known)
        ],
        piece,
    )
    for axis in grid.axes:
        if axis.name in cuts:
            axis.move(cuts[axis.name])


def _is_filter(item: TensorSpec) -> bool:
    return len(item.shape) == 4 and item.kind in ("parameter", "frozen")
