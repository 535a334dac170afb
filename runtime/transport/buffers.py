"""How torch's CPU tensors are handed to MPI: as [memory, count, datatype], without copies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from mpi4py import MPI
from torch import Tensor

Buffer = list[object]  # what mpi4py takes for a message: [memory, count(s), (displacements,) datatype]

_TYPES = {
    torch.float32: MPI.FLOAT,
    torch.float64: MPI.DOUBLE,
    torch.int8: MPI.INT8_T,
    torch.int16: MPI.INT16_T,
    torch.int32: MPI.INT32_T,
    torch.int64: MPI.INT64_T,
    torch.uint8: MPI.UINT8_T,
    torch.uint16: MPI.UINT16_T,
    torch.uint32: MPI.UINT32_T,
    torch.uint64: MPI.UINT64_T,
}


SUMMED = frozenset(_TYPES)  # the types that MPI can add as they are


def typed(tensor: Tensor, ranks: int = 1) -> Buffer:
    """A tensor to be summed; its elements are counted per rank."""
    return _typed(tensor.data_ptr(), tensor.numel(), tensor.dtype, ranks)


def raw(tensor: Tensor) -> Buffer:
    """A tensor to be moved."""
    return _raw(tensor.data_ptr(), tensor.nbytes)


def pieces(tensors: Sequence[Tensor]) -> Buffer:
    """One piece per rank, each wherever it lies in memory: sizes and displacements in bytes from the lowest address."""
    sizes = [tensor.nbytes for tensor in tensors]
    places = [tensor.data_ptr() for tensor in tensors]
    held = [(place, place + size) for place, size in zip(places, sizes, strict=True) if size]
    base = min((start for start, _ in held), default=0)
    end = max((stop for _, stop in held), default=0)
    displacements = [place - base if size else 0 for place, size in zip(places, sizes, strict=True)]
    return [_memory(base, end - base), (sizes, displacements), MPI.BYTE]


def equal(tensors: Sequence[Tensor], size: int) -> bool:
    """Whether all tensors have this many bytes."""
    sizes = [tensor.nbytes for tensor in tensors]
    return sizes.count(size) == len(sizes)


def in_a_row(tensors: Sequence[Tensor], size: int) -> bool:
    """Whether the tensors lie one after another in memory, `size` bytes each."""
    place: int = tensors[0].data_ptr()
    for tensor in tensors:
        if tensor.data_ptr() != place:
            return False
        place += size
    return True


def row(tensors: Sequence[Tensor], size: int) -> Buffer:
    """Equal pieces that lie in a row, one per rank."""
    return _raw(tensors[0].data_ptr(), size * len(tensors), size)


def typed_row(tensors: Sequence[Tensor]) -> Buffer:
    """Equal addends that lie in a row, one per rank."""
    return _typed(tensors[0].data_ptr(), tensors[0].numel() * len(tensors), tensors[0].dtype, len(tensors))


# Building a message costs as much as sending a small one: those of the last addresses are kept. They hold no memory.
@lru_cache(maxsize=4096)
def _typed(address: int, numel: int, dtype: torch.dtype, ranks: int) -> Buffer:
    return [_memory(address, numel * dtype.itemsize), numel // ranks, _TYPES[dtype]]


@lru_cache(maxsize=4096)
def _raw(address: int, size: int, count: int | None = None) -> Buffer:
    return [_memory(address, size), size if count is None else count, MPI.BYTE]


def _memory(address: int, size: int) -> MPI.memory | None:
    return MPI.memory.fromaddress(address, size) if size else None
