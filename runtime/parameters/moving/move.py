"""Moving the boundaries of axes between two steps, and with them whatever is sharded over them.

Parameters, buffers, gradients and the optimizers' state of the same shape move: only the rows that change owner travel. Tensors
that are not sharded over these axes stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters.moving.contents import Held, Optimizers, bytes_per_element, complete, every, held_parts
from autopar.runtime.parameters.moving.exchange import PIECE, Moving, exchange
from autopar.runtime.parameters.moving.legal_cuts import Cuts
from autopar.runtime.parameters.moving.memory_need import check_memory, over_limit
from autopar.runtime.parameters.moving.owners import Repartitions, weighed
from autopar.runtime.program.plan_reader import Description, TensorSpec


def moved_bytes(grid: Grid, cuts: Mapping[str, Cuts], held: Sequence[Held], optimizers: Optimizers) -> list[int]:
    """What each rank at this place would send if axes were cut so, by what this rank has: exact, and without communication."""
    sizes = [(item.shape, layouts, bytes_per_element(tensor, optimizers)) for item, layouts, tensor in held]
    sent = [0] * grid.group.size
    for repartition, size in weighed(Repartitions(grid, cuts), sizes):
        for rank, elements in enumerate(repartition.sent):
            sent[rank] += elements * size
    return sent


def move(
    grid: Grid,
    cuts: Mapping[str, Cuts],
    held: Sequence[Held],
    optimizers: Optimizers = None,
    description: Description | None = None,
    filters: torch.memory_format = torch.contiguous_format,
    piece: int = PIECE,
) -> None:
    """Set the cuts of axes, by name, and move the parts of all `held` tensors. Collective; alike on every rank.

    Parameters of four dims lie in the order `filters`. `piece` bounds messages, in bytes, see `exchange`. Raises ConfigError, and
    moves nothing, where the ranks' states differ or cannot be cut, or where some rank would hold more than it may.
    """
    known, repartitions = every(optimizers), Repartitions(grid, cuts)
    pairs = [(one, repartition) for one in held if (repartition := repartitions.of(one[0].shape, one[1])).moves]
    with together(grid.comm, "moving boundaries"):
        complete(grid.group, cuts, pairs, known)
        every_part = [
            Moving(part, repartition, filters if _is_filter(item) else torch.contiguous_format)
            for (item, _, tensor), repartition in pairs
            for part in held_parts(tensor, known)
        ]
        if description is not None:
            check_memory(over_limit(grid, description, repartitions, held, known, every_part, piece))
    exchange(grid.group, every_part, piece)
    for axis in grid.axes:
        if axis.name in cuts:
            axis.move(cuts[axis.name])


def _is_filter(item: TensorSpec) -> bool:
    return len(item.shape) == 4 and item.kind in ("parameter", "frozen")
