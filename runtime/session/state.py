"""The tensors of a model on a grid: put together and taken apart, with their gradients.

Every rank holds its part of every parameter and buffer, or, where the graph is divided, of those that its position reads; the
first position that holds a tensor speaks for it. All methods but `owners` are collective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autopar.errors import CheckpointError, refusal
from autopar.ir.layout import Layouts
from autopar.runtime.checkpoint import folders, saved_weights
from autopar.runtime.checkpoint.contents import HeldState
from autopar.runtime.diagnostics.collective_errors import alike, by_rank0, together
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters import grad_norm, optimizer_state, sources, weight_files
from autopar.runtime.parameters.holders import Holders
from autopar.runtime.parameters.moving.between_positions import move_tensors
from autopar.runtime.parameters.moving.contents import Held, Optimizers, bytes_per_element, every
from autopar.runtime.parameters.moving.legal_cuts import Boundaries, check_cuts, cuts_of, illegal
from autopar.runtime.parameters.moving.memory_need import over_limit
from autopar.runtime.parameters.moving.move import move, moved_bytes
from autopar.runtime.parameters.moving.owners import Repartitions
from autopar.runtime.parameters.optimizer_state import Owners
from autopar.runtime.parameters.precision import precise
from autopar.runtime.parameters.shards import gather_gradient, gather_whole
from autopar.runtime.parameters.sources import EVERYBODY, Readable
from autopar.runtime.parameters.weight_files import LoadedWeights, Names
from autopar.runtime.program.plan_reader import Description, MinimumRows, TensorSpec


class ModelState:
    """This rank's parts: `layouts` of every tensor of the model, and `tensors` by name, which the owner keeps current.

    `holders` says which positions of the place axis hold a tensor.
    """

    def __init__(
        self,
        grid: Grid,
        layouts: dict[TensorSpec, Layouts],
        tensors: dict[str, Tensor],
        dtype: torch.dtype | None,
        holders: Holders = EVERYBODY,
    ) -> None:
        self.grid = grid
        self.layouts = layouts
        self.tensors = tensors
        self._dtype = dtype
        self.holders = holders

    def _shown(self, item: TensorSpec, whole: Tensor | None) -> Tensor:
        """A whole tensor, on the positions too that do not hold it."""
        return self.holders.shown(item.name, whole, item.shape, precise(item.dtype, self._dtype))

    def whole(self, rank0_only: bool, trained_only: bool = False) -> dict[str, Tensor]:
        """All parameters and buffers whole, or what is trained, by all names; with `rank0_only` nothing on the other ranks."""
        state: dict[str, Tensor] = {}
        for item, layouts in self._stored().items():
            if trained_only and item.kind != "parameter":
                continue
            held = self.tensors.get(item.name)
            whole = None if held is None else gather_whole(held, item.shape, layouts, self.grid.axes)
            tensor = self._shown(item, whole)
            if not rank0_only or self.grid.rank == 0:
                state.update(dict.fromkeys((item.name, *item.aliases), tensor))
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take this rank's parts of whole tensors, given on every rank. Raises CheckpointError."""
        with together(self.grid.comm, "loading the parameters"):
            source = sources.ComparedSource(state.items())
            loaded = sources.load(source, self._stored(), self.grid.axes, self._dtype, holders=self.holders)
        source.check(self.grid.comm)
        with torch.no_grad():
            for name, value in loaded.items():
                self.tensors[name].copy_(value)

    def load_weights(
        self, path: Path, names: Names | None, allow_missing: Sequence[str], allow_unexpected: Sequence[str]
    ) -> LoadedWeights:
        """Take this rank's parts of what files, or a checkpoint, hold; where they do not fit CheckpointError is raised before."""
        stored, comm = self._stored(), self.grid.comm
        held = {item: layouts for item, layouts in stored.items() if self.holders.here(item.name)}
        checkpoint: bool = by_rank0(comm, f"looking at {path}", lambda: saved_weights.is_checkpoint(path))
        chosen = folders.newest(path, comm) if checkpoint else folders.Chosen(path)
        path = chosen.path
        with together(comm, f"reading {path}"):
            tensors: Mapping[str, Readable] = saved_weights.opened(path) if checkpoint else weight_files.opened(path)
            matches = weight_files.matched(str(path), tensors, stored, names, allow_missing, allow_unexpected)
            converted = weight_files.conversions(str(path), matches, self._dtype)
            weight_files.check_tied(str(path), matches, held, self.grid.axes)
        if len(set(map(str, comm.gather_objects(weight_files.digest(tensors))))) > 1:
            rule = "every rank reads the same file, from a folder that all nodes share"
            raise alike(CheckpointError(refusal(str(path), "the ranks find different tensors there", rule)))
        with together(comm, f"reading {path}"), torch.no_grad():
            for item, layouts in held.items():
                for _, tensor in matches.found.get(item, ())[:1]:
                    self.tensors[item.name].copy_(tensor.part(layouts, self.grid.axes))
        found, missing, unexpected = len(matches.found), matches.missing, matches.unexpected
        return LoadedWeights(path, found, missing, unexpected, converted, chosen.passed)

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
                gradients[item.name] = self._shown(item, whole)
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
            if self.holders.speaks(item.name) and (gradient := self.tensors[item.name].grad) is not None
        ]
        total = grad_norm.global_norm(self.grid, gradients, norm_type)
        if error_if_nonfinite and not torch.isfinite(torch.tensor(total)):
            raise RuntimeError(f"the norm of order {norm_type} of all gradients is {total}, so they cannot be clipped")
        grad_norm.scale(self.tensors.values(), total, max_norm)
        first = next((item for item in self.layouts if item.kind == "parameter"), None)
        dtype = torch.float32 if first is None else precise(first.dtype, self._dtype)
        held = self.tensors.get(first.name) if first is not None else None
        return torch.tensor(total, dtype=(dtype if held is None else held.dtype).to_real())

    def full_optimizer(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The whole state of an optimizer over this rank's parts, see `optimizer_state`."""
        names = [item.name for item in self.layouts]
        return optimizer_state.full(optimizer, self.owners(), self.grid.axes, self.holders, names)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Take this rank's parts of such a state."""
        optimizer_state.load(optimizer, state, self.owners(), self.grid.axes, self.holders)

    def bytes(self, optimizer: torch.optim.Optimizer | None) -> int:
        """What this rank holds between steps: parameters, buffers, gradients, and an optimizer's state."""
        optimizers = every(optimizer)
        return sum(
            tensor.numel() * bytes_per_element(tensor, optimizers)
            + (tensor.nbytes if tensor.requires_grad and tensor.grad is None else 0)
            for tensor in self.tensors.values()
        )

    def saved(self) -> HeldState:
        """What checkpoints hold of it."""
        return HeldState(self.grid, self._stored(), self.tensors, self.holders)

    def held(self) -> list[Held]:
        """What this rank has, with what it is and how it lies."""
        return [(item, layouts, tensor) for tensor, (item, layouts) in self.owners().items()]

    def move(
        self,
        cuts: Boundaries,
        optimizers: Optimizers,
        filled: Sequence[MinimumRows],
        description: Description,
        filters: torch.memory_format,
    ) -> None:
        """Cut axes at other fractions, and move the parts of what is sharded over them, the optimizers' too."""
        with together(self.grid.comm, "moving boundaries"):
            at = cuts_of(cuts)
            check_cuts(self.grid.axes, at, filled)
        move(self.grid, at, self.held(), optimizers, description, filters)

    def objections(
        self, cuts: Boundaries, optimizers: Optimizers, filled: Sequence[MinimumRows], description: Description
    ) -> list[str]:
        """What speaks against cutting axes so, by what this rank has: a line for each offender, none where they are legal."""
        at = cuts_of(cuts)
        lines = illegal(self.grid.axes, at, filled)
        return lines or over_limit(self.grid, description, Repartitions(self.grid, at), self.held(), optimizers)

    def moved_bytes(self, cuts: Boundaries, optimizers: Optimizers) -> list[int]:
        """What each rank at this place would send if axes were cut so."""
        return moved_bytes(self.grid, cuts_of(cuts), self.held(), optimizers)

    def extent(self) -> str:
        """How many parameters this rank has of how many, in words."""
        here = sum(self.tensors[item.name].numel() for item in self._parameters() if item.name in self.tensors)
        whole = sum(torch.Size(item.shape).numel() for item in self._parameters())
        return f"{here} of {whole} parameters"

    def _parameters(self) -> list[TensorSpec]:
        return [item for item in self.layouts if item.kind in ("parameter", "frozen")]

    def relocate(self, holders: Holders, optimizers: Optimizers) -> None:
        """Hold what is held by these positions, gradients and the optimizers' state with it. Raises ConfigError before."""
        names = [item.name for item in self.layouts]
        self.tensors = move_tensors(self.grid, names, self.tensors, self.holders, holders, every(optimizers))
        self.holders = holders

    def _stored(self) -> dict[TensorSpec, Layouts]:
        """What is no constant of the program."""
        return {item: layouts for item, layouts in self.layouts.items() if item.kind != "constant"}
