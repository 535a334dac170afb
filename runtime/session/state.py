"""The tensors of a model on a grid: put together and taken apart, with their gradients.

Every rank holds its part of every parameter and buffer. All methods but `owners` are collective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autopar.ir.layout import Layouts
from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters import grad_norm, reshard, sources
from autopar.runtime.parameters.optimizer_state import Owners
from autopar.runtime.parameters.shards import gather_gradients, gather_whole
from autopar.runtime.program.plan_reader import MinimumRows, TensorSpec


class ModelState:
    """This rank's parts: `layouts` of every described tensor, and `tensors` by its name, which the owner keeps current."""

    def __init__(
        self, grid: Grid, layouts: dict[TensorSpec, Layouts], tensors: dict[str, Tensor], dtype: torch.dtype | None
    ) -> None:
        self.grid = grid
        self.layouts = layouts
        self.tensors = tensors
        self._dtype = dtype

    def whole(self, rank0_only: bool) -> dict[str, Tensor]:
        """All parameters and buffers whole, by all of their names; with `rank0_only` nothing on the other ranks."""
        state: dict[str, Tensor] = {}
        for item, layouts in self._stored().items():
            tensor = gather_whole(self.tensors[item.name], item.shape, layouts, self.grid.axes)
            if not rank0_only or self.grid.rank == 0:
                state.update(dict.fromkeys((item.name, *item.aliases), tensor))
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take this rank's parts of whole tensors, given on every rank. Raises CheckpointError."""
        with together(self.grid.comm, "loading the parameters"):
            source = sources.ComparedSource(state.items())
            loaded = sources.load(source, self._stored(), self.grid.axes, self._dtype)
        source.check(self.grid.comm)
        with torch.no_grad():
            for name, value in loaded.items():
                self.tensors[name].copy_(value)

    def gradients(self) -> dict[str, Tensor]:
        """The whole gradient of every parameter that has one on some rank, by name."""
        return gather_gradients(
            [(item.name, self.tensors[item.name], item.shape, layouts) for item, layouts in self.layouts.items()],
            self.grid,
        )

    def owners(self) -> Owners:
        """What each tensor is, and how it lies."""
        return {self.tensors[item.name]: (item, layouts) for item, layouts in self.layouts.items()}

    def clip_norm(self, max_norm: float, norm_type: float, error_if_nonfinite: bool) -> Tensor:
        """Scale all gradients so that their norm is at most `max_norm`; the norm before."""
        gradients = [
            (gradient, layouts)
            for item, layouts in self.layouts.items()
            if (gradient := self.tensors[item.name].grad) is not None
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
        held = [(item, layouts, self.tensors[item.name]) for item, layouts in self.layouts.items()]
        reshard.move(self.grid, [other.name for other in self.grid.axes].index(axis), cuts, held, optimizer, filled)

    def _stored(self) -> dict[TensorSpec, Layouts]:
        """What is no constant of the program."""
        return {item: layouts for item, layouts in self.layouts.items() if item.kind != "constant"}
