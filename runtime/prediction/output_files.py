"""Outputs of a prediction in files, of which every rank writes its own part.

    out.npy             the output, where there is one
    out.safetensors     all outputs by name; how many rows come is to be known beforehand
    folder/NAME.npy     one file for each

An output that has rows of the batch is written as of all rows together; any other for each batch, along a new first dim, if there
are several batches. While it is written a file has ``.partial`` behind its name. Elements go to their places by `os.pwrite`: ranks
on several nodes do not write over each other's bytes, as they would through pages of a shared file that they map.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autopar.errors import ConfigError, refusal
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters.precision import precise
from autopar.runtime.program.plan_reader import Description, OutputSpec
from autopar.runtime.session.outputs import OutputRegion, Outputs

SUFFIXES = (".npy", ".safetensors")
_PARTIAL = ".partial"
_NUMPY = {
    torch.bool: "|b1", torch.uint8: "|u1", torch.int8: "|i1", torch.int16: "<i2", torch.int32: "<i4", torch.int64: "<i8",
    torch.float16: "<f2", torch.float32: "<f4", torch.float64: "<f8", torch.complex64: "<c8", torch.complex128: "<c16",
}  # fmt: skip
_SAFETENSORS = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Extent:
    """How an output lies in its file: the whole `shape`, and where a batch begins along the dim in which batches follow each other.

    dim      that dim, None where there is one batch
    stacked  whether it is a new one, with a row for each batch
    rows     of the file's dim for each `batch` rows of the batch
    """

    shape: tuple[int, ...]
    dim: int | None
    stacked: bool
    rows: int
    batch: int

    def first(self, number: int, start: int) -> int:
        """Where the batch of this number lies that begins with row `start` of all."""
        return number if self.stacked else self.rows * start // self.batch


class OutputFiles:
    """Files that are open on this rank. Making them is local; `finish` is to be called by one rank, after all have written."""

    def __init__(
        self, path: Path, description: Description, dtype: torch.dtype | None, rows: int | None, batches: int | None
    ) -> None:
        """For so many rows in so many batches, None where nobody knows yet. Raises ConfigError where they cannot be written so."""
        self._path = path
        self._dtypes = {item.name: precise(item.dtype, dtype) for item in description.outputs}
        check(path, self._dtypes, rows)
        self._extents = {item.name: extent(item, description.rows, rows, batches) for item in description.outputs}
        self._places, self.files = self._laid_out(path)
        self._handles: dict[Path, int] = {}

    def open(self, create: bool) -> None:
        """Open the files; one rank creates them first. Raises OSError."""
        if create:
            for folder in {file.parent for file in self.files}:
                folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | (os.O_CREAT | os.O_TRUNC if create else 0)
        for file in self.files:
            self._handles[file] = os.open(_partial(file), flags, 0o666)

    def write(self, outputs: Outputs, grid: Grid, number: int, start: int) -> None:
        """Write this rank's parts of a batch. Collective where the outputs' parts are. Raises OSError."""
        for name, output in outputs.in_parts.items():
            regions = output.regions()
            for region in regions:
                if _speaks(region, grid):
                    self._write(name, region, number, start)

    def close(self) -> None:
        """Hand on to the disk what was written."""
        for handle in self._handles.values():
            os.fsync(handle)
            os.close(handle)
        self._handles = {}

    def finish(self, rows: int, batches: int) -> None:
        """Write the heads, now that it is known how much there is, and give the files their names. Raises OSError."""
        for file, names in self.files.items():
            extents = {name: _grown(self._extents[name], rows, batches) for name in names}
            with _partial(file).open("r+b") as stream:
                if file.suffix == ".npy":
                    (name,) = names
                    stream.write(_npy_head(extents[name].shape, self._file_dtype(name)))
                else:
                    stream.write(self._safetensors_head(names))
                end = max(
                    self._places[name] + math.prod(one.shape) * self._file_dtype(name).itemsize
                    for name, one in extents.items()
                )
                stream.truncate(end)
                stream.flush()
                os.fsync(stream.fileno())
            _partial(file).replace(file)

    @property
    def widened(self) -> list[str]:
        """The outputs that are written as float32, since NumPy has no bfloat16."""
        return [name for name, dtype in self._dtypes.items() if dtype != self._file_dtype(name)]

    def _write(self, name: str, region: OutputRegion, number: int, start: int) -> None:
        one, part, rows = self._extents[name], region.part, list(region.rows)
        if one.dim is not None:
            first = one.first(number, start)
            if one.stacked:
                part, rows = part.unsqueeze(0), [((first, first + 1),), *rows]
            else:
                rows[one.dim] = tuple((first + low, first + high) for low, high in rows[one.dim])
        part = part.to("cpu", self._file_dtype(name)).contiguous()
        handle = self._handles[self._file_of(name)]
        content = part.reshape(-1).view(torch.uint8).numpy().data if part.numel() else memoryview(b"")
        at, size = 0, part.element_size()
        for place, count in runs(one.shape, rows):
            _write_all(handle, content[at * size : (at + count) * size], self._places[name] + place * size)
            at += count

    def _file_of(self, name: str) -> Path:
        return next(file for file, names in self.files.items() if name in names)

    def _file_dtype(self, name: str) -> torch.dtype:
        dtype = self._dtypes[name]
        return torch.float32 if dtype == torch.bfloat16 and self._path.suffix != ".safetensors" else dtype

    def _laid_out(self, path: Path) -> tuple[dict[str, int], dict[Path, list[str]]]:
        """Where each output begins in its file, and the outputs of every file."""
        names = list(self._dtypes)
        if path.suffix == ".safetensors":
            begin, places = len(self._safetensors_head(names)), {}
            for name, low, _ in self._offsets(names):
                places[name] = begin + low
            return places, {path: names}
        files = {path if path.suffix == ".npy" else path / f"{name}.npy": [name] for name in names}
        return {name: len(_npy_head(self._extents[name].shape, self._file_dtype(name))) for name in names}, files

    def _offsets(self, names: Sequence[str]) -> Iterator[tuple[str, int, int]]:
        at = 0
        for name in names:
            nbytes = math.prod(self._extents[name].shape) * self._dtypes[name].itemsize
            yield name, at, at + nbytes
            at += nbytes

    def _safetensors_head(self, names: Sequence[str]) -> bytes:
        entries = {
            name: {"dtype": _SAFETENSORS[self._dtypes[name]], "shape": self._extents[name].shape, "data_offsets": [low, high]}
            for name, low, high in self._offsets(names)
        }  # fmt: skip
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def check(path: Path, dtypes: Mapping[str, torch.dtype], rows: int | None) -> None:
    """Raise ConfigError where outputs of so many rows cannot be written there."""
    names, where = list(dtypes), f"--output {path}"
    if path.suffix == ".npy" and len(names) > 1:
        rule = "a .npy file holds one array"
        fix = "name a folder, or a file that ends in .safetensors"
        raise ConfigError(refusal(where, f"the program returns {', '.join(names)}", rule, fix=fix))
    if path.suffix not in ("", *SUFFIXES):
        rule = "outputs are a .npy or .safetensors file, or a folder of NAME.npy"
        raise ConfigError(refusal(where, f"it ends in {path.suffix}", rule))
    if path.suffix == ".safetensors" and rows is None:
        rule = "where its tensors lie in a safetensors file depends on how many rows come, which inputs() does not say"
        raise ConfigError(refusal(where, "cannot be written as the batches come", rule, fix="name a folder"))
    table = _SAFETENSORS if path.suffix == ".safetensors" else {**_NUMPY, torch.bfloat16: ""}
    wrong = [f"{name} is {dtype}" for name, dtype in dtypes.items() if dtype not in table]
    if wrong:
        raise ConfigError(
            refusal(where, "it cannot hold them", f"a {path.suffix or '.npy'} file has not every dtype", wrong)
        )


def extent(item: OutputSpec, compiled: int, rows: int | None, batches: int | None) -> Extent:
    """How an output of so many rows lies in its file; None and an extent of 0 where it grows. Raises ConfigError."""
    if len(item.rows) == 1 and (rows is not None or item.rows == (0,)):
        dim = item.rows[0]
        shape = list(item.shape)
        shape[dim] = 0 if rows is None else item.shape[dim] * rows // compiled
        return Extent(tuple(shape), dim, False, item.shape[dim], compiled)
    if batches == 1 and rows is not None:
        shape = [n * rows // compiled if dim in item.rows else n for dim, n in enumerate(item.shape)]
        return Extent(tuple(shape), None, False, 0, compiled)
    if item.rows:
        dims = f"dim{'s' * (len(item.rows) > 1)} {', '.join(map(str, item.rows))} of {list(item.shape)}"
        rule = "batches follow each other along one dim, and along the first where inputs() does not say how many rows come"
        fix = "compile for all rows in one batch, or have forward return it with the batch as its first dim"
        raise ConfigError(refusal(f"output {item.name}", f"the batch is in {dims}", rule, fix=fix))
    return Extent((batches or 0, *item.shape), 0, True, 1, 1)


def runs(shape: Sequence[int], rows: Sequence[Sequence[tuple[int, int]]]) -> Iterator[tuple[int, int]]:
    """Where the elements of a part lie in the whole, in their order, as runs of neighbours: their first places and lengths.

    >>> list(runs((4, 6), [((1, 3),), ((0, 6),)])), list(runs((2, 6), [((0, 2),), ((0, 1), (4, 6))]))
    ([(6, 12)], [(0, 1), (4, 2), (6, 1), (10, 2)])
    """
    if not all(rows):
        return
    dim = len(shape)
    while dim and tuple(rows[dim - 1]) == ((0, shape[dim - 1]),):
        dim -= 1
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    if not dim:
        yield 0, math.prod(shape)
        return
    within = [[i * strides[d] for low, high in rows[d] for i in range(low, high)] for d in range(dim - 1)]
    stride = strides[dim - 1]
    for outer in itertools.product(*within):
        for low, high in rows[dim - 1]:
            yield sum(outer) + low * stride, (high - low) * stride


def _grown(one: Extent, rows: int, batches: int) -> Extent:
    """With the shape that it has come to have."""
    if one.dim is None:
        return one
    shape = list(one.shape)
    shape[one.dim] = batches if one.stacked else one.rows * rows // one.batch
    return Extent(tuple(shape), one.dim, one.stacked, one.rows, one.batch)


def _speaks(region: OutputRegion, grid: Grid) -> bool:
    """Whether this rank is the one of those with the same part that writes it."""
    others = [axis for axis in grid.axes if all(axis is not own for own in region.axes)]
    return all(axis.index == 0 for axis in [*others, *([grid.outer] if grid.outer else [])])


def _write_all(handle: int, content: memoryview, at: int) -> None:
    while content:
        written = os.pwrite(handle, content, at)
        content, at = content[written:], at + written


def _npy_head(shape: Sequence[int], dtype: torch.dtype) -> bytes:
    """The head of a .npy file; as long whatever the extents are."""
    text = f"{{'descr': '{_NUMPY[dtype]}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    size = -(-(64 + 24 * len(shape)) // 64) * 64 + 64
    return b"\x93NUMPY\x01\x00" + (size - 10).to_bytes(2, "little") + text.ljust(size - 11).encode() + b"\n"


def _partial(file: Path) -> Path:
    return file.with_name(file.name + _PARTIAL)
