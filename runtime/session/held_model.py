"""A model on a grid without its steps: whole tensors under the model's own names, gradients, the optimizer's state.

What a rank holds is its parts; methods that return or take whole tensors are collective. `Parallel` adds the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from autopar.errors import ConfigError, refusal
from autopar.runtime.checkpoint.load import Resumed
from autopar.runtime.checkpoint.probe import expected_bytes
from autopar.runtime.checkpoint.save import JobState, NewCheckpoint, begun, write
from autopar.runtime.checkpoint.started import BackgroundSaves, StartedSave
from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters.gradient_buckets import GradientSums
from autopar.runtime.parameters.weight_files import LoadedWeights, Names
from autopar.runtime.program.namespace import register, unregister
from autopar.runtime.program.pipeline import Pipeline
from autopar.runtime.program.plan_reader import Description
from autopar.runtime.program.program import Program
from autopar.runtime.session import copies
from autopar.runtime.session.folder_lock import FolderLock, lock_folder
from autopar.runtime.session.resuming import Movable, resume
from autopar.runtime.session.state import ModelState
from autopar.runtime.transport.base import Comm

NOTHING = "nothing_trained_here"  # a parameter without elements, where a position has none that is trained
RANDOM = "random"  # where a whole optimizer state has the seed and the steps


class HeldModel(nn.Module):
    """This rank's parts of a model, and the seed and steps by which its random numbers are drawn."""

    grid: Grid
    description: Description
    seed: int
    _steps: int
    program: Program
    _moved: dict[int, int]  # segments that have been moved, and where they are
    _homes: dict[int, int]  # where they stood at first
    _state: ModelState
    _sums: GradientSums
    _saves: BackgroundSaves | None = None  # once something is saved beside
    _saving: StartedSave | None = None  # the save under way
    _locks: Mapping[Path, FolderLock] = MappingProxyType({})  # of the folders into which it has saved

    def full_state_dict(self, *, rank0_only: bool = False, trained_only: bool = False) -> dict[str, Tensor]:
        """All parameters and buffers whole, under the model's own names, tied names included. Collective.

        With `rank0_only` the other ranks get an empty dict and hold one whole tensor at a time. With `trained_only` only what is
        trained: adapters, without their frozen base; `load_weights` takes such a file back with what it lacks allowed.
        """
        return self._state.whole(rank0_only, trained_only)

    def load_full_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take this rank's parts of whole tensors, given on every rank. Raises CheckpointError. Collective."""
        self._state.load(state)

    def load_weights(
        self,
        path: str | Path,
        names: Names | None = None,
        *,
        allow_missing: Sequence[str] = (),
        allow_unexpected: Sequence[str] = (),
    ) -> LoadedWeights:
        """Take this rank's parts of a safetensors file, or of a folder of them, read slice by slice. Collective.

        `names` leads from a name in the file to the model's: a function, or a mapping of names and of beginnings (``{"model.":
        ""}``); None leaves a tensor out. Tied tensors come under any of their names. Patterns (``"head.*"``) say what may be
        missing, and then keeps its values, and what of the file the model need not have. The optimizer's state is not changed.

        Raises CheckpointError, on all ranks and before anything is changed, with all that does not fit.
        """
        return self._state.load_weights(Path(path), names, allow_missing, allow_unexpected)

    def save(
        self,
        folder: str | Path,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        step: int | None = None,
        scheduler: Any = None,  # noqa: ANN401 (whatever has a state)
        scaler: Any = None,  # noqa: ANN401
        extra: object = None,
        keep: int | None = None,
    ) -> Path:
        """Write a checkpoint ``folder/step-00000120``, of which every rank writes what it holds. Collective, between steps.

        It has the optimizer's state, the seed and steps of the model's random numbers, every rank's generator of torch, boundaries
        and segments that were moved, and the `state_dict` of a learning-rate `scheduler` and a gradient `scaler`. `extra` are
        numbers, texts, lists, tuples and dicts of the user's. `step` is that of the name, the calls in training so far if None.
        The newest `keep` checkpoints stay, all if None: those whose files have their sizes are counted.

        The folder has its name once all is on the disk. Raises ConfigError for `keep`, else CheckpointError, on all ranks; earlier
        ones are as they were.
        """
        self._end_save()
        new = self._new_checkpoint(folder, optimizer, step, scheduler, scaler, extra, keep)
        return write(new, keep)

    def start_save(
        self,
        folder: str | Path,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        step: int | None = None,
        scheduler: Any = None,  # noqa: ANN401 (whatever has a state)
        scaler: Any = None,  # noqa: ANN401
        extra: object = None,
        keep: int | None = None,
    ) -> StartedSave:
        """Begin what `save` does, and return once all that it holds is copied: a thread writes while training goes on. Collective.

        It goes on with the calls of this model; `wait` of what is returned, on all ranks, ends it, and so do the next save and
        load. These raise what went wrong. Copies stay for the next time. Where there is no memory for them it is written at once,
        and `reason` says so. At the end of a script it is to be waited for: what is not is no checkpoint.
        """
        self._end_save()
        new = self._new_checkpoint(folder, optimizer, step, scheduler, scaler, extra, keep)
        if self._saves is None:
            self._saves = BackgroundSaves()
        limit = self.description.limit(self.grid.rank)
        beside = self._state.bytes(optimizer) + self.description.predicted.beside
        self._saving = self._saves.start(new, keep, beside, limit if self._on_cpu() else None)
        return self._saving

    def checkpoint_bytes(self, optimizer: torch.optim.Optimizer | None = None) -> int:
        """About what a checkpoint takes on the disk, with what the optimizer keeps from its first step on. Collective."""
        return expected_bytes(self._state.saved(), optimizer)

    def _note_moves(self, moves: Mapping[int, int]) -> None:
        """Segments will be moved: where they stood at first, and where they are then."""
        forward = self.program.forward
        if isinstance(forward, Pipeline):
            for segment in moves:
                self._homes.setdefault(segment, forward.segments[segment].at)
        self._moved.update(moves)

    def _new_checkpoint(
        self,
        folder: str | Path,
        optimizer: torch.optim.Optimizer | None,
        step: int | None,
        scheduler: Any,  # noqa: ANN401 (whatever has a state)
        scaler: Any,  # noqa: ANN401
        extra: object,
        keep: int | None,
    ) -> NewCheckpoint:
        random = (self.seed, self._steps)
        if keep is not None and keep < 1:
            raise ConfigError(refusal("keep= of a checkpoint", f"is {keep}", "the newest checkpoint stays: 1 or more"))
        if Path(folder) not in self._locks:
            self._locks = {**self._locks, Path(folder): lock_folder(Path(folder), self.grid.comm)}
        number = self._steps if step is None else step
        places = {str(segment): at for segment, at in self._moved.items()}
        state = JobState(self.description.name, number, random, places, scheduler, scaler, extra)
        return begun(self._state.saved(), optimizer, state, Path(folder))

    def _on_cpu(self) -> bool:
        return all(tensor.is_cpu for tensor in self._state.tensors.values())

    def _end_save(self) -> None:
        """The save under way ends. Raises what went wrong with it."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.wait()

    def _advance_save(self) -> None:
        """The save under way goes on, if all ranks are ready to."""
        if self._saving is not None:
            self._saving.advance()

    def load(
        self,
        folder: str | Path,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        scheduler: Any = None,  # noqa: ANN401 (whatever has a state)
        scaler: Any = None,  # noqa: ANN401
    ) -> Resumed:
        """Go on from the newest whole checkpoint in a folder, or from the one that it is; of any grid. Collective, between steps.

        Every rank reads the slices of its own parts. On the grid that saved it, boundaries and segments are where they were.
        Raises CheckpointError, on all ranks and before anything is changed, with all that does not fit.
        """
        self._end_save()
        holders = {"scheduler": scheduler, "scaler": scaler}
        places = {segment: (at, self._homes[segment]) for segment, at in self._moved.items()}
        return resume(cast("Movable", self), self._state, places, Path(folder), optimizer, holders)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:  # noqa: ANN401 (the protocol's own signature)
        raise copies.refused()

    def get_extra_state(self) -> Tensor:
        """What `state_dict` holds beside tensors of the model: the seed and the steps, by which random numbers are drawn."""
        return torch.tensor([self.seed, self._steps])

    def set_extra_state(self, state: Tensor) -> None:
        """Go on with the random numbers of another run."""
        self.seed, self._steps = state.tolist()

    def full_gradients(self) -> dict[str, Tensor]:
        """The whole gradient of every parameter that has one on some rank, by name. Collective."""
        return self._state.gradients()

    def full_optimizer_state_dict(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state of an optimizer over these parameters, whole, by parameter names, and of random numbers. Collective."""
        return self._state.full_optimizer(optimizer) | {RANDOM: self.get_extra_state().tolist()}

    def load_full_optimizer_state_dict(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Take this rank's part of what `full_optimizer_state_dict` gave, on this grid or another. Collective."""
        with together(self.grid.comm, "loading the optimizer's state"):
            self._state.load_optimizer(optimizer, state)
            if RANDOM in state:
                self.set_extra_state(torch.tensor(state[RANDOM]))

    def clip_grad_value_(self, clip_value: float) -> None:
        """`torch.nn.utils.clip_grad_value_`: every element of every gradient into [-clip_value, clip_value]."""
        nn.utils.clip_grad_value_(self.parameters(), clip_value)

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Tensor:
        """`torch.nn.utils.clip_grad_norm_` over the whole model; returns the norm before. Collective.

        torch's own function, given `parallel.parameters()`, would see this rank's parts only, and clip by their norm.
        """
        return self._state.clip_norm(float(max_norm), float(norm_type), error_if_nonfinite)

    @property
    def bucket_sizes(self) -> list[int]:
        """The bytes of each sum of gradients, in the order in which they are summed."""
        return self._sums.bytes

    def sums_over(self, other: Callable[[Comm, int], Comm]) -> AbstractContextManager[None]:
        """Sums of gradients over other communicators: what `other` makes of that of each bucket, by its number."""
        return self._sums.over(other)

    @property
    def sum_seconds(self) -> dict[tuple[int, ...], float]:
        """Wall seconds that this rank has spent in sums of gradients so far, by the numbers of the axes that are summed over."""
        return self._sums.seconds_by_axes

    def accumulate(self) -> AbstractContextManager[None]:
        """Gradient accumulation: backward passes inside leave their sums over ranks to the first one after.

        with parallel.accumulate():
            for batch in batches[:-1]:
                (parallel(**batch) / len(batches)).backward()
        (parallel(**batches[-1]) / len(batches)).backward()
        """
        return self._sums.accumulate()

    def no_sync(self) -> AbstractContextManager[None]:
        """`accumulate`, by the name that `torch.nn.parallel.DistributedDataParallel` gives it."""
        return self.accumulate()

    def _parameters_here(self) -> dict[str, nn.Parameter]:
        return {name: tensor for name, tensor in self._state.tensors.items() if isinstance(tensor, nn.Parameter)}

    def _register(self) -> None:
        """Have the tensors that are held here under their names, in the order of the model."""
        registered = {
            *dict(self.named_parameters(remove_duplicate=False)),
            *dict(self.named_buffers(remove_duplicate=False)),
        }
        named = [(name, item) for item in self._state.layouts for name in (item.name, *item.aliases)]
        for name in registered.intersection([NOTHING, *(name for name, _ in named)]):
            unregister(self, name)
        for name, item in named:
            if item.name in self._state.tensors:
                register(self, name, self._state.tensors[item.name], item.kind)
        if self.grid.place and not any(one.requires_grad for one in self._parameters_here().values()):
            register(self, NOTHING, nn.Parameter(torch.empty(0)), "parameter")  # optimizers refuse to have none
