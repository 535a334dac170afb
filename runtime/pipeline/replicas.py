"""Parameters that segments of several positions read: a replica on each of these, and one gradient, the sum over them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

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

    def summed(self, parameters: Mapping[str, nn.Parameter]) -> list[Tensor | None]:
        """The gradients of this position's parameters; those of replicas are summed. None where nobody has used one."""
        gradients = {name: parameter.grad for name, parameter in parameters.items()}
        for several, comm in self._groups.items():
            names = [name for name in parameters if self._positions[name] == several]
            used = torch.tensor([gradients[name] is not None for name in names], dtype=torch.int64)
            comm.all_reduce(used)
            for name, count in zip(names, used.tolist(), strict=True):
                if count:
                    gradient = gradients[name]
                    total = torch.zeros_like(parameters[name]) if gradient is None else gradient.contiguous()
                    comm.all_reduce(total)
                    gradients[name] = total
        return list(gradients.values())

    def free(self) -> None:
        """Give the communicators back."""
        for comm in self._groups.values():
            comm.free()
