"""A checkpoint is read, on the grid that wrote it or on any other: each rank reads the slices of its own parts.

Everything is compared before anything is changed: names, shapes, dtypes, the optimizer's groups and settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autopar.errors import CheckpointError, nearest, refusal
from autopar.ir.layout import Layouts
from autopar.runtime.checkpoint.contents import HeldState, decoded
from autopar.runtime.checkpoint.index import MODEL, OPTIMIZER, RANDOM, Index, SavedTensor
from autopar.runtime.checkpoint.slices import PIECE, ShardFile, StoredTensor
from autopar.runtime.grid.grid import Axis
from autopar.runtime.parameters.moving.regions import Region, overlap
from autopar.runtime.parameters.shards import Runs, rows
from autopar.runtime.program.plan_reader import TensorSpec, dtype_name, dtype_of


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a job goes on from: the checkpoint, its step, the user's `extra`, and a line for each newer one that is not whole.

    `left` are states that it has and nothing was handed to `load` for, of a job that learns on: ``("scheduler",)``.
    """

    path: Path
    step: int
    extra: Any = None
    passed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def check(held: HeldState, optimizer: torch.optim.Optimizer | None, index: Index, path: Path) -> None:
    """Raise CheckpointError with everything of a checkpoint that does not fit the model and its optimizer."""
    stored = {key.removeprefix(f"{MODEL}/"): one for key, one in index.tensors.items() if key.startswith(f"{MODEL}/")}
    specs = {item.name: item for item in held.layouts}
    problems = [f"{name} is missing" for name, item in specs.items() if name not in stored and _elements(item)]
    problems += [f"{name} is not a tensor of the model{nearest(name, specs)}" for name in stored if name not in specs]
    problems += [
        f"{name} has shape {one.shape}, the model's is {specs[name].shape}"
        for name, one in stored.items()
        if name in specs and one.shape != specs[name].shape
    ]
    problems += [
        f"{name} is {one.dtype}, the model's is {dtype_name(held.tensors[name].dtype)}"
        for name, one in stored.items()
        if name in held.tensors and one.dtype != dtype_name(held.tensors[name].dtype)
    ]
    if problems:
        given = f"{len(problems)} tensors do not fit the model; it was saved from {index.model!r}"
        rule = "a checkpoint goes on with the model that it was saved from"
        fix = "parallel.load_weights takes those parameters that fit, under other names too"
        raise CheckpointError(refusal(str(path), given, rule, problems, fix))
    if optimizer is not None:
        _check_optimizer(held, optimizer, index, path)


def check_holders(holders: Mapping[str, Any], index: Index, path: Path) -> None:
    """Raise CheckpointError where a schedule or the like is to go on of which the checkpoint has no state."""
    if missing := [f"{name}=" for name, one in holders.items() if one is not None and getattr(index, name) is None]:
        rule = "what goes on from a checkpoint was handed to save as well"
        fix = f"load it without {' and '.join(missing)}"
        raise CheckpointError(refusal(str(path), "it has no state of what is to go on", rule, missing, fix))


def _check_optimizer(held: HeldState, optimizer: torch.optim.Optimizer, index: Index, path: Path) -> None:
    if index.groups is None:
        fix = "parallel.load(folder) without the optimizer takes the parameters alone"
        raise CheckpointError(
            refusal(str(path), "it has no state of an optimizer", "it was saved without one", fix=fix)
        )
    owners = held.owners
    here = set(owners.values())
    mine = [{owners[one] for one in group["params"] if one in owners} for group in optimizer.param_groups]
    theirs = [here.intersection(group["params"]) for group in index.groups]
    lacking = sorted(optimizer.defaults.keys() - index.groups[0].keys())
    if mine == theirs and lacking:
        rule = "an optimizer goes on with the state of one of its kind, which has all of its settings"
        raise CheckpointError(refusal(f"{path}, state of the optimizer", "settings are missing", rule, lacking))
    if mine != theirs:
        differ = sorted({n for names in mine for n in names} ^ {n for names in theirs for n in names})
        given = (
            f"groups of {[len(names) for names in theirs]} parameters for groups of {[len(names) for names in mine]}"
        )
        rule = "an optimizer goes on with the state of one that had the same parameters, in the same groups"
        raise CheckpointError(refusal(f"{path}, state of the optimizer", given, rule, differ))


def fill(held: HeldState, index: Index, path: Path) -> None:
    """Read this rank's parts of the model into the tensors that are there."""
    with torch.no_grad(), Files(path) as files:
        for item, layouts in held.layouts.items():
            if item.name in held.tensors and (stored := index.tensors.get(f"{MODEL}/{item.name}")) is not None:
                wanted = rows(stored.shape, layouts, held.grid.axes)
                _read(stored, f"{MODEL}/{item.name}", wanted, files, held.tensors[item.name])


def fill_optimizer(held: HeldState, optimizer: torch.optim.Optimizer, index: Index, path: Path) -> None:
    """Read this rank's parts of an optimizer's state, and its settings."""
    assert index.groups is not None
    assert index.scalars is not None
    for group, saved in zip(optimizer.param_groups, index.groups, strict=True):
        group.update((key, decoded(value)) for key, value in saved.items() if key != "params")
    fields: dict[str, list[str]] = {}
    for key in index.tensors:
        if key.startswith(f"{OPTIMIZER}/"):
            name, _, field = key.removeprefix(f"{OPTIMIZER}/").rpartition("/")
            fields.setdefault(name, []).append(field)
    trained = {one for group in optimizer.param_groups for one in group["params"]}
    with Files(path) as files:
        for item, layouts in held.layouts.items():
            tensor = held.tensors.get(item.name)
            if tensor is None or tensor not in trained:
                continue
            state: dict[str, Any] = {name: decoded(value) for name, value in index.scalars.get(item.name, {}).items()}
            for field in fields.get(item.name, ()):
                key = f"{OPTIMIZER}/{item.name}/{field}"
                stored = index.tensors[key]
                state[field] = torch.empty_like(tensor, dtype=dtype_of(stored.dtype))
                _read(stored, key, rows(stored.shape, layouts, held.grid.axes), files, state[field].detach())
            if state:
                optimizer.state[tensor] = state
            else:
                optimizer.state.pop(tensor, None)


def fill_random(index: Index, path: Path, rank: int, ranks: int) -> None:
    """torch's generator of this rank as it was, on as many ranks; as rank 0's was on any other number."""
    file = f"rank-{rank if ranks == index.ranks else 0:05d}.safetensors"
    with Files(path) as files:
        stored = files.tensor(file, f"{RANDOM}/torch")
        torch.set_rng_state(stored.read(Region(tuple(((0, extent),) for extent in stored.shape))))


def part(stored: SavedTensor, key: str, layouts: Layouts, axes: Sequence[Axis], files: Files) -> Tensor:
    """This rank's part of a stored tensor, of which only its own slices are read."""
    return read_rows(stored, key, rows(stored.shape, layouts, axes), files)


def read_rows(stored: SavedTensor, key: str, wanted: tuple[Runs, ...], files: Files) -> Tensor:
    """These rows of every dim of a stored tensor, from whatever files have them. Raises CheckpointError."""
    made = torch.empty(Region(wanted).shape, dtype=dtype_of(stored.dtype))
    _read(stored, key, wanted, files, made)
    return made


def _read(stored: SavedTensor, key: str, wanted: tuple[Runs, ...], files: Files, target: Tensor) -> None:
    """Fill a tensor with these rows: in its own memory where they come as they lie there, else a piece at a time."""
    left = target.numel()
    for piece in stored.parts:
        pairs = [overlap(mine, theirs) for mine, theirs in zip(wanted, piece.rows, strict=True)]
        here, there = (Region(tuple(pair[side] for pair in pairs)) for side in (0, 1))
        if not here.numel:
            continue
        left -= here.numel
        file = files.tensor(piece.file, key)
        if here.numel == target.numel() and target.is_contiguous() and target.is_cpu and target.dtype == file.dtype:
            file.read_into(there, target)
            continue
        most = max(1, PIECE // file.dtype.itemsize)
        for mine, theirs in zip(here.pieces(most), there.pieces(most), strict=True):
            mine.put(target, file.read(theirs))
    if left:
        rule = "the parts of a checkpoint hold each element once"
        raise CheckpointError(refusal(key, f"{left} of {target.numel()} elements are not in it", rule))


class Files:
    """The open files of a checkpoint: each is opened when the first slice of it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, ShardFile] = {}

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def tensor(self, file: str, key: str) -> StoredTensor:
        """A tensor of a file, unread. Raises CheckpointError where it cannot be opened."""
        if file not in self._files:
            self._files[file] = ShardFile(self._path / file)
        return self._files[file].tensor(key)


def _elements(item: TensorSpec) -> bool:
    return bool(torch.Size(item.shape).numel())


Cuts = Mapping[str, Sequence[float] | None]


def cuts_of(index: Index, grid: str, axes: Sequence[Axis]) -> Cuts:
    """The boundaries to go on with, where they are others than those now: on the grid of the checkpoint alone."""
    if index.grid != grid:
        return {}
    return {axis.name: index.cuts.get(axis.name) for axis in axes if axis.cuts != index.cuts.get(axis.name)}
