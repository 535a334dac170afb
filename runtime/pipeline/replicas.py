"""Parameters that segments of several positions read: a replica on each of these, and one gradient, the sum over them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autopar.runtime.grid.grid import Grid
from autopar.runtime.transport.base import Comm


class Replicas:
    """The sums over positions of what is held on several of them. Making it is collective: it makes communicators."""

    def __init__(self, grid: Grid, positions: Mapping[str, tuple[int, ...]]) -> None:
        assert grid.place is not None
        self._groups: dict[tuple[int, ...], Comm] = {}
        self._positions = positions
        for several in sorted({held for held in positions.values() if len(held) > 1}):
            here = grid.place.index in several
            comm = grid.place.comm.split(0 if here else 1 + grid.place.index, grid.place.index)
            if here:
                self._groups[several] = comm

    @property
    def seconds(self) -> float:
        """Wall seconds that this rank has spent in these sums so far."""
        return sum(comm.seconds for comm in self._groups.values())

    def sum(self, leaves: Mapping[str, Tensor]) -> None:
        """Sum the gradients of what is held on several positions, by name. None stays where nobody has used it. Collective."""
        for several, comm in self._groups.items():
            held = [leaves[name] for name, positions in self._positions.items() if positions == several]
            trained = [leaf for leaf in held if leaf.requires_grad]
            used = torch.tensor([leaf.grad is not None for leaf in trained], dtype=torch.int64)
            comm.all_reduce(used)
            for leaf, count in zip(trained, used.tolist(), strict=True):
                if count:
                    total = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.contiguous()
                    comm.all_reduce(total)
                    leaf.grad = total

    def free(self) -> None:
        """Give the communicators back."""
        for comm in self._groups.values():
            comm.free()
