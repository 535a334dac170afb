"""A checkpoint is written: a file of each rank that has something to write, then the index, then the folder has its name.

Until then it is no checkpoint for anybody, wherever the job is killed; and no earlier one goes before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
    file_digest,
)
from autopar.runtime.diagnostics.collective_errors import by_rank0, together
from autopar.runtime.parameters.optimizer_state import united_groups
from autopar.runtime.program.plan_reader import dtype_name
from autopar.version import __version__


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


def save(
    held: HeldState, optimizer: torch.optim.Optimizer | None, job: JobState, folder: Path, keep: int | None
) -> Path:
    """Write a checkpoint into a folder that all ranks see, and keep the newest so many. Collective. Raises CheckpointError."""
    comm, grid = held.grid.comm, held.grid
    what = f"saving step {job.step} in {folder}"
    writing = Path(by_rank0(comm, what, lambda: str(_opened(folder, job))))
    with together(comm, what):
        mine = _written(held, optimizer, writing, f"rank-{comm.rank:05d}.safetensors")
    every: list[Any] = list(comm.gather_objects(mine))
    names = [item.name for item in held.layouts]

    def ended() -> str:
        index = Index(
            version=VERSION, autopar=__version__, torch=torch.__version__, model=job.model, grid=str(grid.shape),
            step=job.step, ranks=comm.size, tensors=_tensors(every),
            files={file: SavedFile(*said) for theirs in every for file, said in theirs["file"].items()},
            cuts={axis.name: axis.cuts for axis in grid.axes if axis.cuts is not None},
            places=dict(job.places), random=job.random,
            groups=_groups(every, names) if optimizer else None,
            scalars=_scalars(every) if optimizer else None,
            scheduler=contents.encoded(_state(job.scheduler)), scaler=contents.encoded(_state(job.scaler)),
            extra=contents.encoded(job.extra),
        )  # fmt: skip
        try:
            durable.write_text(writing / INDEX, dumped(index))
            return str(folders.commit(writing, folder, job.step, keep))
        except OSError as error:
            raise _not_written(folder, error) from error

    return Path(by_rank0(comm, what, ended))


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


def _written(held: HeldState, optimizer: torch.optim.Optimizer | None, writing: Path, file: str) -> dict[str, Any]:
    """What the others are told of this rank's file, which is written. Raises CheckpointError."""
    every = list(contents.parts(held, optimizer))
    tensors: dict[str, Tensor] = {part.key: part.tensor.detach().cpu().contiguous() for part in every}
    tensors[f"{RANDOM}/torch"] = torch.get_rng_state()
    told = {
        part.key: [dtype_name(part.tensor.dtype), part.shape, part.aliases, asdict(SavedPart(file, part.rows))]
        for part in every
    }
    groups = contents.groups(held, optimizer) if optimizer else []
    scalars = contents.scalars(held, optimizer) if optimizer else {}
    try:
        durable.write_tensors(writing / file, tensors)
        said = file_digest(writing / file)
    except OSError as error:
        raise _not_written(writing, error) from error
    return {"parts": told, "file": {file: [said.bytes, said.sha256]}, "groups": groups, "scalars": scalars}


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
