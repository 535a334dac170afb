"""Values that rank 0 has and hands out: each rank receives its part of every tensor, one tensor at a time, and nothing else.

Rank 0 is the first rank of every axis. Where the graph is divided, it hands a tensor to the first rank of each position that
holds it. Over one axis after another, outermost first, the ranks that hold something hand it
on to the others of their row: whole where the axis repeats the tensor, cut where it splits it. So no rank but the first
ever has room for a whole tensor that is split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from autopar.ir.layout import Layouts
from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import ShardBounds
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.parameters.shards import cuts
from autopar.runtime.transport.base import Comm


@dataclass(frozen=True, slots=True)
class FromRank0:
    """A tensor of rank 0's, of which every rank is to have its part; `tensor` is None on the others."""

    tensor: Tensor | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def reaching(self, place: Axis, axes: Sequence[Axis], positions: Sequence[int]) -> FromRank0:
        """The tensor, known to the first rank of each of these positions. Collective."""
        held = self.tensor
        if not any(axis.index for axis in axes) and 0 not in self.shape:
            if held is not None:
                for position in positions:
                    if position:
                        place.comm.exchange({position: held.detach().contiguous()}, {})
            elif place.index in positions:
                held = torch.empty(self.shape, dtype=self.dtype, device=self.device)
                place.comm.exchange({}, {0: held})
        return replace(self, tensor=held)

    def part(self, layouts: Layouts, axes: Sequence[Axis]) -> Tensor:
        """This rank's part, in memory of its own. Collective."""
        axis_cuts = dict(cuts(self.shape, layouts, axes))
        held, shape = self.tensor, list(self.shape)
        if held is not None:
            held = held.detach().contiguous()
        for i, axis in enumerate(axes):
            cut = axis_cuts.get(axis)
            if cut is not None:
                shape[cut.dim] = cut.size(axis.index)
            if axis.size > 1 and not any(later.index for later in axes[i + 1 :]):
                room = held if held is not None else torch.empty(shape, dtype=self.dtype, device=self.device)
                held = room if cut is None else _cut(room, axis, cut)
                if cut is None:
                    axis.comm.broadcast(held, 0)
        assert held is not None
        return held.clone() if self.tensor is not None and held.data_ptr() == self.tensor.data_ptr() else held


def live_values(module: nn.Module | None, comm: Comm) -> Iterator[tuple[str, FromRank0]]:
    """The values of rank 0's module under all their names; tensors lie where this rank's own module has them. Collective."""
    own = dict(module_values(module)) if module is not None else {}
    return from_rank0(own, comm, {name: tensor.device for name, tensor in own.items()})


def from_rank0(
    values: Mapping[str, Tensor], comm: Comm, devices: Mapping[str, torch.device] = MappingProxyType({})
) -> Iterator[tuple[str, FromRank0]]:
    """Rank 0's values by name, on every rank; those of the others are not looked at. Collective."""
    mine = values if comm.rank == 0 else {}
    rows = [[name, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for name, tensor in mine.items()]
    for name, shape, dtype in comm.gather_objects(rows)[0]:  # type: ignore[attr-defined]
        device = devices.get(name, torch.device("cpu"))
        yield name, FromRank0(mine.get(name), tuple(shape), getattr(torch, dtype), device)


def _cut(tensor: Tensor, axis: Axis, cut: ShardBounds) -> Tensor:
    """This rank's part: of the whole on the axis's first rank, which hands the others theirs one by one."""
    if axis.index:
        if tensor.numel():
            axis.comm.exchange({}, {0: tensor})
        return tensor
    for rank in range(1, axis.size):
        if (part := cut.part(tensor, rank)).numel():
            axis.comm.exchange({rank: part}, {})
    return cut.part(tensor, 0)
