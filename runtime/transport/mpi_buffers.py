"""How torch's CPU tensors are handed to MPI: as [memory, count, datatype], without copies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from mpi4py import MPI
from torch import Tensor

from autopar.runtime.transport.base import check_tensors

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
    assert tensor.is_contiguous(), _scattered(tensor)
    return _typed(tensor.data_ptr(), tensor.numel(), tensor.dtype, ranks)


def raw(tensor: Tensor) -> Buffer:
    """A tensor to be moved."""
    assert tensor.is_contiguous(), _scattered(tensor)
    return _raw(tensor.data_ptr(), tensor.nbytes)


def raw_row(tensor: Tensor, ranks: int) -> Buffer:
    """A tensor to be moved in equal pieces, one per rank."""
    assert tensor.is_contiguous(), _scattered(tensor)
    return _raw(tensor.data_ptr(), tensor.nbytes, ranks)


def pieces(tensors: Sequence[Tensor]) -> Buffer:
    """One piece per rank, each wherever it lies in memory: sizes and displacements in bytes from the lowest address."""
    check_tensors("pieces", tensors)
    sizes = [tensor.nbytes for tensor in tensors]
    places = [tensor.data_ptr() for tensor in tensors]
    held = [(place, place + size) for place, size in zip(places, sizes, strict=True) if size]
    base = min((start for start, _ in held), default=0)
    end = max((stop for _, stop in held), default=0)
    displacements = [place - base if size else 0 for place, size in zip(places, sizes, strict=True)]
    return [_memory(base, end - base), (sizes, displacements), MPI.BYTE]


# Building a message costs as much as sending a small one: those of the last addresses are kept. They hold no memory.
@lru_cache(maxsize=4096)
def _typed(address: int, numel: int, dtype: torch.dtype, ranks: int) -> Buffer:
    return [_memory(address, numel * dtype.itemsize), numel // ranks, _TYPES[dtype]]


@lru_cache(maxsize=4096)
def _raw(address: int, size: int, ranks: int = 1) -> Buffer:
    return [_memory(address, size), size // ranks, MPI.BYTE]


def _memory(address: int, size: int) -> MPI.memory | None:
    return MPI.memory.fromaddress(address, size) if size else None


def _scattered(tensor: Tensor) -> str:
    return f"a tensor of shape {tuple(tensor.shape)} and strides {tensor.stride()} is not contiguous"
