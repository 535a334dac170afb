"""A checkpoint is written: a file of each rank that has something to write, then the index, then the folder has its name.

Until then it is no checkpoint for anybody, wherever the job is killed; and no earlier one goes before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autopar.errors import CheckpointError, refusal
from autopar.runtime.checkpoint import contents, durable, folders
from autopar.runtime.checkpoint.contents import HeldState
from autopar.runtime.checkpoint.index import (
    INDEX,
    RANDOM,
    VERSION,
    Index,
    SavedFile,
    SavedPart,
    SavedTensor,
    dumped,
)
from autopar.runtime.checkpoint.safetensors_stream import TensorToWrite, content, storable
from autopar.runtime.diagnostics.collective_errors import by_rank0, together
from autopar.runtime.parameters.optimizer_state import united_groups
from autopar.runtime.program.plan_reader import dtype_name
from autopar.runtime.transport.base import Comm
from autopar.version import __version__

Pace = Callable[[Iterator[memoryview]], Iterator[memoryview]]
"""What hands out the pieces of a file, one after another, as they are to be written."""


@dataclass(frozen=True, slots=True)
class JobState:
    """How far a job is, beside its tensors; see `Index`. The objects have `state_dict`, or are None."""

    model: str
    step: int
    random: tuple[int, int]
    places: Mapping[str, int]
    scheduler: Any = None
    scaler: Any = None
    extra: Any = None


@dataclass(frozen=True, slots=True)
class NewCheckpoint:
    """A checkpoint that is being written: `tensors` are this rank's, by the keys of the index, for all else is told already.

    `told` is what the others are told of this rank's; `index` has everything but tensors and files.
    """

    comm: Comm
    what: str
    folder: Path
    writing: Path
    names: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    told: Mapping[str, Any]
    index: Index

    def write(self, tensors: Mapping[str, Tensor], pace: Pace = iter) -> dict[str, Any]:
        """Write this rank's file with the values of its tensors; what the others are told of it. Raises CheckpointError."""
        file = f"rank-{self.comm.rank:05d}.safetensors"
        ordered = [
            TensorToWrite(key, tuple(one.shape), one.dtype, partial(_whole, one)) for key, one in tensors.items()
        ]
        try:
            said = durable.write_pieces(self.writing / file, pace(content(ordered, {})))
        except OSError as error:
            raise _not_written(self.folder, error) from error
        return {**self.told, "file": {file: asdict(said)}}

    def commit(self, every: list[Any], keep: int | None) -> Path:
        """Write the index of what all ranks have told, and give the checkpoint its name. Raises CheckpointError."""
        whole = replace(
            self.index, tensors=_tensors(every),
            files={file: SavedFile(**said) for theirs in every for file, said in theirs["file"].items()},
            groups=_groups(every, list(self.names)) if self.index.groups is not None else None,
            scalars=_scalars(every) if self.index.groups is not None else None,
        )  # fmt: skip
        try:
            durable.write_text(self.writing / INDEX, dumped(whole))
            return folders.commit(self.writing, self.folder, self.index.step, keep)
        except OSError as error:
            raise _not_written(self.folder, error) from error


def save(
    held: HeldState, optimizer: torch.optim.Optimizer | None, job: JobState, folder: Path, keep: int | None
) -> Path:
    """Write a checkpoint into a folder that all ranks see, and keep the newest so many. Collective. Raises CheckpointError."""
    return write(begun(held, optimizer, job, folder), keep)


def write(new: NewCheckpoint, keep: int | None) -> Path:
    """Write what has begun to its end. Collective. Raises CheckpointError."""
    with together(new.comm, new.what):
        mine = new.write(new.tensors)
    every: list[Any] = list(new.comm.gather_objects(mine))
    return Path(by_rank0(new.comm, new.what, lambda: str(new.commit(every, keep))))


def begun(held: HeldState, optimizer: torch.optim.Optimizer | None, job: JobState, folder: Path) -> NewCheckpoint:
    """A folder to write into, and all that is told beside tensors, as it is now. Collective. Raises CheckpointError."""
    comm, grid = held.grid.comm, held.grid
    what = f"saving step {job.step} in {folder}"
    writing = Path(by_rank0(comm, what, lambda: str(_opened(folder, job))))
    with together(comm, what):
        every = list(contents.parts(held, optimizer))
        tensors = {part.key: part.tensor.detach() for part in every} | {f"{RANDOM}/torch": torch.get_rng_state()}
        _check_dtypes(tensors)
        file = f"rank-{comm.rank:05d}.safetensors"
        told = {
            "parts": {
                part.key: [dtype_name(part.tensor.dtype), part.shape, part.aliases, asdict(SavedPart(file, part.rows))]
                for part in every
            },
            "groups": contents.groups(held, optimizer) if optimizer else [],
            "scalars": contents.scalars(held, optimizer) if optimizer else {},
        }
    index = Index(
        version=VERSION, autopar=__version__, torch=torch.__version__, model=job.model, grid=str(grid.shape),
        step=job.step, ranks=comm.size, tensors={}, files={},
        cuts={axis.name: axis.cuts for axis in grid.axes if axis.cuts is not None},
        places=dict(job.places), random=job.random, groups=[] if optimizer else None, scalars={} if optimizer else None,
        scheduler=contents.encoded(_state(job.scheduler)), scaler=contents.encoded(_state(job.scaler)),
        extra=contents.encoded(job.extra),
    )  # fmt: skip
    return NewCheckpoint(comm, what, folder, writing, tuple(item.name for item in held.layouts), tensors, told, index)


def _opened(folder: Path, job: JobState) -> Path:
    """The folder to write into. Raises CheckpointError, also where the index could not be written afterwards."""
    said = {"scheduler": _state(job.scheduler), "scaler": _state(job.scaler), "extra": job.extra}
    for name, value in said.items():
        try:
            json.dumps(contents.encoded(value))
        except (TypeError, ValueError) as error:
            rule = "numbers, texts, and lists, tuples and dicts of these go into the index of a checkpoint"
            fix = "save it yourself, beside the checkpoint, or hand over what is plain of it as extra="
            given = f"it has what does not go there: {error}"
            raise CheckpointError(refusal(f"{name}= of a checkpoint", given, rule, fix=fix)) from error
    try:
        return folders.open_folder(folder, job.step)
    except OSError as error:
        raise _not_written(folder, error) from error


def _check_dtypes(tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for what the format of the files has not."""
    if problems := [f"{key} is {dtype_name(one.dtype)}" for key, one in tensors.items() if not storable(one.dtype)]:
        rule = "a checkpoint is made of safetensors files, which have real numbers and complex64"
        raise CheckpointError(refusal("dtypes of a checkpoint", "some cannot be written", rule, problems))


def _whole(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor as one piece, in memory of the CPU."""
    yield tensor.cpu()


def _tensors(every: list[Any]) -> dict[str, SavedTensor]:
    found: dict[str, SavedTensor] = {}
    for theirs in every:
        for key, (dtype, shape, aliases, part) in theirs["parts"].items():
            before = found.get(key)
            own = SavedPart(part["file"], tuple(tuple(map(tuple, runs)) for runs in part["rows"]))
            found[key] = SavedTensor(dtype, tuple(shape), tuple(aliases), (*(before.parts if before else ()), own))
    return found


def _groups(every: list[Any], names: list[str]) -> list[dict[str, Any]]:
    """The groups of all ranks, which are alike but for the parameters that are there."""
    held = [[group["params"] for group in theirs["groups"]] for theirs in every]
    return united_groups(every[0]["groups"], held, names, "rank")


def _scalars(every: list[Any]) -> dict[str, Any]:
    """Of every parameter what the first rank that has it says: it is the same on all."""
    found: dict[str, Any] = {}
    for theirs in every:
        for name, fields in theirs["scalars"].items():
            found.setdefault(name, fields)
    return found


def _state(holder: Any) -> Any:  # noqa: ANN401 (whatever has a state)
    return None if holder is None else holder.state_dict()


def _not_written(folder: Path, error: OSError) -> CheckpointError:
    rule = "a checkpoint is written into a folder that all ranks see, with room for it; earlier ones in it are as they were"
    return CheckpointError(refusal(str(folder), f"cannot be written: {error.strerror or error}", rule))
