"""A checkpoint's model becomes a file or folder of weights as others read them, on one process and in little memory.

    export(DIR, FOLDER)             model.safetensors, or model-00001-of-00003.safetensors ... with model.safetensors.index.json
    export(DIR, x.safetensors)      that file

Tensors have the model's own names, tied ones the first of theirs. Of none more than a piece is in memory: its elements are read
from whatever files of the checkpoint have them, in the order in which they are written.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from autopar.errors import CheckpointError, refusal
from autopar.runtime.checkpoint import folders, placing
from autopar.runtime.checkpoint.folders import Chosen
from autopar.runtime.checkpoint.index import MODEL, Index, SavedTensor, read_index
from autopar.runtime.checkpoint.load import Files, read_rows
from autopar.runtime.checkpoint.model_folder import ModelFolder
from autopar.runtime.checkpoint.safetensors_stream import TensorToWrite, storable, write
from autopar.runtime.parameters.shards import Runs
from autopar.runtime.parameters.weight_files import INDEX, ONE, SUFFIX, Names, renamed
from autopar.runtime.program.plan_reader import dtype_name, dtype_of

PIECE = 16 << 20
"""Bytes of a tensor that are in memory at a time, as they are read and as they are written."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How weights are written.

    dtype        of floating-point tensors; None: as the checkpoint has them
    shard_bytes  most bytes of a file, but that a tensor is in one; None: one file. Of folders alone
    like         a folder of `save_pretrained`, whose other files (configuration, tokenizer) are wanted beside the weights
    names        from the model's names to those in the file, see `weight_files.renamed`; None leaves a tensor out
    overwrite    whether files that are there may be replaced
    """

    dtype: torch.dtype | None = None
    shard_bytes: int | None = None
    like: Path | None = None
    names: Names | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: where, of which checkpoint, how many tensors and bytes of them, the files, and lines worth telling."""

    path: Path
    checkpoint: Path
    step: int
    tensors: int
    bytes: int
    files: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def export(folder: Path, to: Path, options: ExportOptions | None = None) -> Exported:
    """Write the weights of a checkpoint, or of the newest whole one in a folder, to a folder or a file ``*.safetensors``.

    Nothing is there before all of it is. Raises CheckpointError.
    """
    options = options or ExportOptions()
    single = to.name.endswith(SUFFIX)
    placing.check(to, single, options.overwrite, sharded=options.shard_bytes is not None)
    model = None if options.like is None else ModelFolder.read(options.like)
    chosen = newest_whole(folder)
    index = read_index(chosen.path)
    notes = [f"passed over {line}" for line in chosen.passed]
    with Files(chosen.path) as files:
        tensors = _tensors(index, files, options, model)
        if model is not None:
            notes += model.compared({one.name: one.shape for one in tensors})
        groups = {to.name: tensors} if single else _sharded(tensors, options.shard_bytes, model)
        with placing.placed(to, single, options.overwrite) as aside:
            for name, group in groups.items():
                write(aside / name, group, {"format": "pt"})
            if len(groups) > 1:
                (aside / INDEX).write_text(_index_text(groups), encoding="utf-8")
            if model is not None:
                model.copy(aside, _usual(tensors))
    total = sum(one.bytes for one in tensors)
    return Exported(to, chosen.path, index.step, len(tensors), total, tuple(groups), tuple(notes))


def newest_whole(folder: Path) -> Chosen:
    """The checkpoint at a path, itself or the newest in it that is whole, read by one process. Raises CheckpointError."""
    passed: list[str] = []
    for path in folders.candidates(folder):
        try:
            faults = list(folders.faults(path))
        except CheckpointError as error:
            faults = [str(error).splitlines()[0]]
        if not faults:
            return Chosen(path, tuple(passed))
        passed.append(f"{path.name}: {'; '.join(faults)}")
    rule = "weights are those of the newest checkpoint that is whole"
    given = "there is no checkpoint in it" if not passed else "no checkpoint in it is whole"
    raise CheckpointError(refusal(str(folder), given, rule, passed))


def _tensors(index: Index, files: Files, options: ExportOptions, model: ModelFolder | None) -> list[TensorToWrite]:
    """What is written, in the order of the index. Raises CheckpointError with all that cannot be."""
    change, problems = renamed(options.names), list[str]()
    found: dict[str, TensorToWrite] = {}
    for key, saved in index.tensors.items():
        if not key.startswith(f"{MODEL}/"):
            continue
        names = [new for own in (key.removeprefix(f"{MODEL}/"), *saved.aliases) if (new := change(own)) is not None]
        if not names:
            continue
        name = names[0] if model is None else model.chosen(names)
        if name is None:
            continue
        dtype = dtype_of(saved.dtype)
        if options.dtype is not None and dtype.is_floating_point:
            dtype = options.dtype
        if name in found:
            problems.append(f"{name} is what two tensors would be called")
        if not storable(dtype):
            problems.append(f"{name} is {dtype_name(dtype)}, which the format has not")
        found[name] = TensorToWrite(name, saved.shape, dtype, partial(_pieces, name, saved, key, dtype, files))
    if problems or not found:
        rule = "every tensor has a name of its own, and a dtype that safetensors has"
        given = f"{len(problems)} tensors cannot be written" if found else "nothing is left to be written"
        raise CheckpointError(refusal("export", given, rule, problems))
    return list(found.values())


def _pieces(name: str, saved: SavedTensor, key: str, dtype: torch.dtype, files: Files) -> Iterator[Tensor]:
    """The elements of a stored tensor in row-major order. Raises CheckpointError where a finite one would become infinite."""
    most = max(1, PIECE // max(dtype_of(saved.dtype).itemsize, dtype.itemsize))
    for region in slabs(saved.shape, most):
        value = read_rows(saved, key, region, files)
        made = value.to(dtype)
        if made.dtype != value.dtype and bool((made.isinf() & ~value.isinf()).any()):
            largest = value.abs().max().item()
            rule = f"{dtype_name(dtype)} holds numbers up to {torch.finfo(dtype).max:.6g}"
            raise CheckpointError(
                refusal(
                    name, f"it has {largest:.6g}", rule, fix="--dtype bfloat16 or float32 (the dtype of the export)"
                )
            )
        yield made


def slabs(shape: Sequence[int], most: int) -> Iterator[tuple[Runs, ...]]:
    """A tensor's elements in row-major order: regions that follow each other, of at most so many elements.

    >>> list(slabs((2, 3), 2))
    [(((0, 1),), ((0, 2),)), (((0, 1),), ((2, 3),)), (((1, 2),), ((0, 2),)), (((1, 2),), ((2, 3),))]
    """
    if not math.prod(shape):
        return
    if math.prod(shape) <= most:
        yield tuple(((0, extent),) for extent in shape)
        return
    first, rest = shape[0], math.prod(shape[1:])
    if rest <= most:
        rows = most // rest
        for start in range(0, first, rows):
            yield (((start, min(start + rows, first)),), *(((0, extent),) for extent in shape[1:]))
        return
    for row in range(first):
        for inner in slabs(shape[1:], most):
            yield (((row, row + 1),), *inner)


def _sharded(
    tensors: Iterable[TensorToWrite], most: int | None, model: ModelFolder | None
) -> dict[str, list[TensorToWrite]]:
    """Files in the order of the tensors, each as full as it may be."""
    groups: list[list[TensorToWrite]] = [[]]
    size = 0
    for one in tensors:
        if most is not None and groups[-1] and size + one.bytes > most:
            groups.append([])
            size = 0
        groups[-1].append(one)
        size += one.bytes
    if len(groups) == 1:
        return {ONE if model is None else model.file: groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}{SUFFIX}": group for i, group in enumerate(groups, start=1)}


def _index_text(groups: Mapping[str, Sequence[TensorToWrite]]) -> str:
    files = {one.name: name for name, group in groups.items() for one in group}
    total = sum(one.bytes for group in groups.values() for one in group)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": files}, indent=2, sort_keys=True) + "\n"


def _usual(tensors: Iterable[TensorToWrite]) -> str | None:
    """The dtype of most floating-point bytes."""
    sizes: Counter[torch.dtype] = Counter()
    for one in tensors:
        if one.dtype.is_floating_point:
            sizes[one.dtype] += one.bytes
    return dtype_name(sizes.most_common(1)[0][0]) if sizes else None
