"""Which positions of the place axis hold a tensor; on a grid without one all ranks do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autopar.runtime.grid.grid import Axis


@dataclass(frozen=True, slots=True)
class Holders:
    """The positions of tensors by name; a tensor that is not named is held on all of them.

    The first position that holds a tensor speaks for it: for sums and states, in which every tensor stands once.
    """

    place: Axis | None = None
    positions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def of(self, name: str) -> tuple[int, ...]:
        """The positions that hold a tensor, in order; without a place axis there is one."""
        every = tuple(range(self.place.size)) if self.place is not None else (0,)
        return self.positions.get(name, every)

    def here(self, name: str) -> bool:
        """Whether this position holds it."""
        return self.place is None or self.place.index in self.of(name)

    def speaks(self, name: str) -> bool:
        """Whether this is the position that speaks for it."""
        return self.place is None or self.place.index == self.of(name)[0]

    def shown(self, name: str, tensor: Tensor | None, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """What those who hold a tensor have as `tensor`, on all positions. Collective over the place axis."""
        if self.place is None or len(self.of(name)) == self.place.size:
            assert tensor is not None
            return tensor
        room = torch.empty(tuple(shape), dtype=dtype) if tensor is None else tensor.contiguous()
        self.place.comm.broadcast(room, self.of(name)[0])
        return room
