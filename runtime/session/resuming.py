"""A model goes on from a checkpoint: where boundaries and segments stood, this rank's parts, and everything beside tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from autopar.runtime.checkpoint import load
from autopar.runtime.checkpoint.contents import decoded
from autopar.runtime.checkpoint.folders import newest
from autopar.runtime.checkpoint.index import read_index
from autopar.runtime.checkpoint.load import Resumed
from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters.moving.contents import Optimizers
from autopar.runtime.parameters.moving.legal_cuts import Boundaries
from autopar.runtime.session.state import ModelState


class Movable(Protocol):
    """What a `Parallel` does with boundaries, segments and random numbers."""

    grid: Grid

    def rebalance(self, cuts: Boundaries, optimizer: Optimizers = None) -> None: ...  # noqa: D102 (the class that has it says it)
    def move_segments(self, moves: Mapping[int, int], optimizer: Optimizers = None) -> None: ...  # noqa: D102
    def set_extra_state(self, state: Tensor) -> None: ...  # noqa: D102


def resume(
    parallel: Movable,
    state: ModelState,
    moved: Mapping[int, tuple[int, int]],
    folder: Path,
    optimizer: torch.optim.Optimizer | None,
    holders: Mapping[str, Any],
) -> Resumed:
    """See `Parallel.load`. `holders` are what has a state of its own, by its name in the index.

    `moved` are segments that have been moved: where they are, and where they stood at first, where they go back to.
    """
    grid, shape = parallel.grid, str(parallel.grid.shape)
    chosen = newest(folder, grid.comm)
    what = f"reading {chosen.path}"
    with together(grid.comm, what):
        index = read_index(chosen.path)
        load.check(state.saved(), optimizer, index, chosen.path)
        load.check_holders(holders, index, chosen.path)
    homes = {segment: home for segment, (_, home) in moved.items()}
    stood = homes | {int(segment): at for segment, at in index.places.items()} if index.grid == shape else {}
    if moves := {segment: at for segment, at in stood.items() if moved.get(segment, (None,))[0] != at}:
        parallel.move_segments(moves, optimizer)
    if cuts := load.cuts_of(index, shape, grid.axes):
        parallel.rebalance(cuts, optimizer)
    with together(grid.comm, what):
        held = state.saved()
        load.fill(held, index, chosen.path)
        if optimizer is not None:
            load.fill_optimizer(held, optimizer, index, chosen.path)
        for name, holder in holders.items():
            if holder is not None and (saved := getattr(index, name)) is not None:
                holder.load_state_dict(decoded(saved))
        load.fill_random(index, chosen.path, grid.rank, grid.size)
    parallel.set_extra_state(torch.tensor(index.random))
    lacking = [name for name, holder in holders.items() if holder is None and getattr(index, name) is not None]
    left = tuple(lacking if optimizer is not None else ())
    return Resumed(chosen.path, index.step, decoded(index.extra), chosen.passed, left)
