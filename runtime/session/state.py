"""The tensors of a model on a grid: put together and taken apart, with their gradients.

Every rank holds its part of every parameter and buffer, or, where the graph is divided, of those that its position reads; the
first position that holds a tensor speaks for it. All methods but `owners` are collective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from autopar.ir.layout import Layouts
from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters import grad_norm, reshard, sources
from autopar.runtime.parameters.optimizer_state import Owners
from autopar.runtime.parameters.precision import precise
from autopar.runtime.parameters.shards import gather_gradient, gather_whole
from autopar.runtime.program.plan_reader import MinimumRows, TensorSpec


class ModelState:
    """This rank's parts: `layouts` of every tensor of the model, and `tensors` by name, which the owner keeps current.

    `positions` are those of the place axis on which a tensor is held; on all where it is not named.
    """

    def __init__(
        self,
        grid: Grid,
        layouts: dict[TensorSpec, Layouts],
        tensors: dict[str, Tensor],
        dtype: torch.dtype | None,
        positions: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    ) -> None:
        self.grid = grid
        self.layouts = layouts
        self.tensors = tensors
        self._dtype = dtype
        self._positions = positions

    @property
    def elsewhere(self) -> set[str]:
        """The tensors that other positions hold and this one does not."""
        return {item.name for item in self.layouts if item.name not in self.tensors}

    def speaks(self, name: str) -> bool:
        """Whether this is the position that speaks for a tensor."""
        return self.grid.place is None or self.grid.place.index == self._positions.get(name, (0,))[0]

    def _everywhere(self, item: TensorSpec, whole: Tensor | None) -> Tensor:
        """A whole tensor, on the positions too that do not hold it."""
        if self.grid.place is None or len(self._positions[item.name]) == self.grid.place.size:
            assert whole is not None
            return whole
        tensor = torch.empty(item.shape, dtype=precise(item.dtype, self._dtype)) if whole is None else whole
        self.grid.place.comm.broadcast(tensor, self._positions[item.name][0])
        return tensor

    def whole(self, rank0_only: bool) -> dict[str, Tensor]:
        """All parameters and buffers whole, by all of their names; with `rank0_only` nothing on the other ranks."""
        state: dict[str, Tensor] = {}
        for item, layouts in self._stored().items():
            held = self.tensors.get(item.name)
            whole = None if held is None else gather_whole(held, item.shape, layouts, self.grid.axes)
            tensor = self._everywhere(item, whole)
            if not rank0_only or self.grid.rank == 0:
                state.update(dict.fromkeys((item.name, *item.aliases), tensor))
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take this rank's parts of whole tensors, given on every rank. Raises CheckpointError."""
        with together(self.grid.comm, "loading the parameters"):
            source = sources.ComparedSource(state.items())
            loaded = sources.load(source, self._stored(), self.grid.axes, self._dtype, elsewhere=self.elsewhere)
        source.check(self.grid.comm)
        with torch.no_grad():
            for name, value in loaded.items():
                self.tensors[name].copy_(value)

    def gradients(self) -> dict[str, Tensor]:
        """The whole gradient of every parameter that has one on some rank, by name.

        One that has a gradient on some ranks only has zeros on the others: torch may find none where a rank has no rows.
        """
        held = [self.tensors.get(item.name) for item in self.layouts]
        ranks = torch.tensor([part is not None and part.grad is not None for part in held], dtype=torch.int64)
        self.grid.comm.all_reduce(ranks)
        gradients: dict[str, Tensor] = {}
        for (item, layouts), part, count in zip(self.layouts.items(), held, ranks.tolist(), strict=True):
            if count:
                whole = None if part is None else gather_gradient(part, item.shape, layouts, self.grid.axes)
                gradients[item.name] = self._everywhere(item, whole)
        return gradients

    def owners(self) -> Owners:
        """What each tensor is, and how it lies."""
        return {
            self.tensors[item.name]: (item, layouts)
            for item, layouts in self.layouts.items()
            if item.name in self.tensors
        }

    def clip_norm(self, max_norm: float, norm_type: float, error_if_nonfinite: bool) -> Tensor:
        """Scale all gradients so that their norm is at most `max_norm`; the norm before."""
        gradients = [
            (gradient, layouts)
            for item, layouts in self.layouts.items()
            if self.speaks(item.name) and (gradient := self.tensors[item.name].grad) is not None
        ]
        total = grad_norm.global_norm(self.grid, gradients, norm_type)
        if error_if_nonfinite and not torch.isfinite(torch.tensor(total)):
            raise RuntimeError(f"the norm of order {norm_type} of all gradients is {total}, so they cannot be clipped")
        grad_norm.scale(self.tensors.values(), total, max_norm)
        return torch.tensor(total, dtype=gradients[0][0].dtype.to_real() if gradients else torch.float32)

    def move(
        self,
        axis: str,
        cuts: Sequence[float] | None,
        optimizer: torch.optim.Optimizer | None,
        filled: Sequence[MinimumRows],
    ) -> None:
        """Cut an axis at other fractions, and move the parts of what is sharded over it, the optimizer's too."""
        held = [(item, layouts, tensor) for tensor, (item, layouts) in self.owners().items()]
        reshard.move(self.grid, [other.name for other in self.grid.axes].index(axis), cuts, held, optimizer, filled)

    def _stored(self) -> dict[TensorSpec, Layouts]:
        """What is no constant of the program."""
        return {item: layouts for item, layouts in self.layouts.items() if item.kind != "constant"}
