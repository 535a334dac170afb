"""Slices of the tensors of a safetensors file, read as exactly as pages allow: nothing of a file is mapped, and nothing kept.

A slice is the product of rows of every dim. Rows that follow each other in the file are read at once; where these are less than a
page, whole rows of an outer dim are read, a piece at a time, and the slice is taken from them.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from autopar.errors import CheckpointError, refusal
from autopar.runtime.checkpoint.safetensors_stream import DTYPES
from autopar.runtime.parameters.moving.regions import Region
from autopar.runtime.parameters.shards import Runs

PIECE = 8 << 20
"""Bytes of a slice that are in memory at a time beside where they go."""
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a file: its dtype and shape, and where its elements begin."""

    file: ShardFile
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int

    def read(self, region: Region) -> Tensor:
        """A tensor of the region's shape with its elements. Raises CheckpointError."""
        values = torch.empty(region.shape, dtype=self.dtype)
        self.read_into(region, values)
        return values

    def read_into(self, region: Region, values: Tensor) -> None:
        """Fill a contiguous tensor of the file's dtype and the region's shape. Raises CheckpointError."""
        if not region.numel:
            return
        item = self.dtype.itemsize
        memory = values.detach().view(-1).view(torch.uint8).numpy().data
        # the dims up to `cut` are counted through, and from there on a run of rows follows each other in the file
        cut = next((dim for dim in reversed(range(len(self.shape))) if region.dims[dim] != ((0, self.shape[dim]),)), 0)
        inner = math.prod(self.shape[cut + 1 :]) * item
        runs = region.dims[cut] if region.dims else ((0, 1),)
        if (cut or len(runs) > 1) and min(stop - start for start, stop in runs) * inner < _PAGE:
            self._read_bands(region, values)
            return
        at = 0
        for outer in _offsets(self.shape[: cut + 1], region.dims[:cut]):
            for start, stop in runs:
                count = (stop - start) * inner
                self.file.read(self.begin + (outer + start) * inner, memory[at : at + count])
                at += count

    def _read_bands(self, region: Region, values: Tensor) -> None:
        """The same for rows that are small: those of an outer dim are read whole, as many at a time as a piece holds."""
        item = self.dtype.itemsize
        dim = next(dim for dim in range(len(self.shape)) if math.prod(self.shape[dim + 1 :]) * item <= PIECE)
        row = math.prod(self.shape[dim + 1 :])
        target = values.view(-1, *region.shape[dim:])
        for number, outer in enumerate(_offsets(self.shape[: dim + 1], region.dims[:dim])):
            done = 0
            for first, runs in _bands(region.dims[dim], max(1, PIECE // (row * item))):
                band = torch.empty((runs[-1][1], *self.shape[dim + 1 :]), dtype=self.dtype)
                self.file.read(self.begin + (outer + first) * row * item, band.view(-1).view(torch.uint8).numpy().data)
                taken = Region((runs, *region.dims[dim + 1 :])).take(band)
                target[number, done : done + len(taken)].copy_(taken)
                done += len(taken)


class ShardFile:
    """An open safetensors file, and how many bytes of tensors were read of it. Raises CheckpointError where it is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bytes = 0
        rule = "the files of a checkpoint are those that its index names"
        try:
            self._stream = path.open("rb", buffering=0)
            size = int.from_bytes(self._stream.read(8), "little")
            if size > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(self._stream.read(size))
            self._tensors = {
                key: StoredTensor(self, DTYPES[said["dtype"]], tuple(said["shape"]), 8 + size + said["data_offsets"][0])
                for key, said in header.items()
                if key != "__metadata__"
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(refusal(str(path), f"cannot be read: {error}", rule)) from error

    def close(self) -> None:
        """Nothing is read afterwards."""
        self._stream.close()

    def tensor(self, key: str) -> StoredTensor:
        """A tensor, unread. Raises CheckpointError where there is none."""
        if key not in self._tensors:
            rule = "the files of a checkpoint hold the parts that its index names"
            raise CheckpointError(refusal(str(self._path), f"there is no {key} in it", rule))
        return self._tensors[key]

    def read(self, offset: int, memory: memoryview) -> None:
        """Fill memory with the bytes from an offset on. Raises CheckpointError."""
        done = 0
        try:
            while done < len(memory):
                count = os.preadv(self._stream.fileno(), [memory[done:]], offset + done)
                if not count:
                    raise OSError(0, f"it ends at byte {offset + done}")
                done += count
        except OSError as error:
            rule = "the files of a checkpoint stay as they were written"
            raise CheckpointError(refusal(str(self._path), f"cannot be read: {error.strerror}", rule)) from error
        self.bytes += done


def _offsets(shape: Sequence[int], rows: Sequence[Runs]) -> Iterator[int]:
    """Where the rows of the outer dims begin, counted in rows of the last dim of `shape`; in row-major order.

    >>> list(_offsets((4, 3), [((1, 3),)]))
    [3, 6]
    """
    for index in itertools.product(*(itertools.chain(*(range(*run) for run in runs)) for runs in rows)):
        offset = 0
        for at, extent in zip(index, shape[1:], strict=True):
            offset = (offset + at) * extent
        yield offset


def _bands(runs: Runs, most: int) -> Iterator[tuple[int, Runs]]:
    """Rows in bands of at most so many neighbours: the first row of each, and its runs counted from there.

    >>> list(_bands(((1, 2), (4, 9)), 4))
    [(1, ((0, 1), (3, 4))), (5, ((0, 4),))]
    """
    at = 0
    while at < len(runs):
        first = runs[at][0]
        while True:
            inside = tuple(
                (max(a, first) - first, min(b, first + most) - first) for a, b in runs[at:] if a < first + most
            )
            yield first, inside
            at += sum(b <= first + most for _, b in runs[at : at + len(inside)])
            if at == len(runs) or runs[at][0] >= first + most:
                break
            first += most
