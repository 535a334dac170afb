"""Ranks that are MPI processes: mpi4py on the memory of torch's CPU tensors, without copies.

A tensor is handed over as (address, count, datatype). What is only moved goes as bytes, what is summed in its own
type. The pieces of a scattered or gathered message are told by their displacements from the lowest address, wherever
they lie, so that they need not be joined first. Counts and displacements are MPI-4's large ones where the library has
them; otherwise mpi4py refuses what does not fit. Communicators are duplicates of the user's, so that our messages
never meet theirs.
"""

# ruff: noqa: D102  (the methods of a communicator are described once, in base.py)

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from mpi4py import MPI
from torch import Tensor

from autopar.runtime.transport.base import Comm, Work, check_tensors, joined, restore, summable

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
_Buffer = list[object]  # what mpi4py takes for a message: [memory, count(s), (displacements,) datatype]


class MpiComm(Comm):
    """An MPI communicator of our own; `duplicate` makes one from the user's."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm: MPI.Intracomm | None = comm
        self._rank: int = comm.Get_rank()
        self._size: int = comm.Get_size()
        self._seconds = 0.0

    @staticmethod
    def duplicate(comm: MPI.Intracomm) -> MpiComm:
        """The same ranks as `comm`, with messages apart from its own. Collective over `comm`."""
        return MpiComm(comm.Dup())

    @staticmethod
    def world() -> MpiComm:
        """All ranks of the job."""
        return MpiComm.duplicate(MPI.COMM_WORLD)

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def size(self) -> int:
        return self._size

    @property
    def seconds(self) -> float:
        return self._seconds

    @contextmanager
    def _timed(self) -> Iterator[MPI.Intracomm]:
        """The communicator, while the clock of `seconds` runs."""
        assert self._comm is not None, "this communicator has been freed"
        start = time.perf_counter()
        yield self._comm
        self._seconds += time.perf_counter() - start

    def all_reduce(self, tensor: Tensor) -> None:
        check_tensors("all_reduce", [tensor])
        with self._timed() as comm:
            total = summable(tensor)
            comm.Allreduce(MPI.IN_PLACE, _typed(total), MPI.SUM)
            restore(tensor, total)

    def start_all_reduce(self, tensor: Tensor) -> Work:
        check_tensors("start_all_reduce", [tensor])
        with self._timed() as comm:
            total = summable(tensor)
            return _Sum(self, tensor, total, comm.Iallreduce(MPI.IN_PLACE, _typed(total), MPI.SUM))

    def all_gather(self, tensor: Tensor, outs: Sequence[Tensor]) -> None:
        check_tensors("all_gather", [tensor, *outs])
        with self._timed() as comm:
            comm.Allgatherv(_bytes(tensor), _pieces(outs))

    def reduce_scatter(self, parts: Sequence[Tensor], out: Tensor) -> None:
        check_tensors("reduce_scatter", [*parts, out])
        with self._timed() as comm:
            addends = summable(joined(parts))
            total = torch.empty(2 * out.numel() if out.is_complex() else out.numel(), dtype=addends.dtype)
            total = out if out.dtype == total.dtype else total
            counts = [part.numel() * addends.numel() // max(_numel(parts), 1) for part in parts]
            comm.Reduce_scatter(_typed(addends), _typed(total), counts, MPI.SUM)
            if out.is_complex():
                total = torch.view_as_complex(total.view(*out.shape, 2))
            restore(out, total.view(out.shape))

    def all_to_all(self, sends: Sequence[Tensor], recvs: Sequence[Tensor]) -> None:
        check_tensors("all_to_all", [*sends, *recvs])
        with self._timed() as comm:
            comm.Alltoallv(_pieces(sends), _pieces(recvs))

    def exchange(self, sends: dict[int, Tensor], recvs: dict[int, Tensor]) -> None:
        check_tensors("exchange", [*sends.values(), *recvs.values()])
        with self._timed() as comm:
            requests = [comm.Irecv(_bytes(tensor), source) for source, tensor in recvs.items()]
            requests += [comm.Isend(_bytes(tensor), to) for to, tensor in sends.items()]
            MPI.Request.Waitall(requests)

    def broadcast(self, tensor: Tensor, root: int) -> None:
        check_tensors("broadcast", [tensor])
        with self._timed() as comm:
            comm.Bcast(_bytes(tensor), root)

    def gather_objects(self, item: object) -> list[object]:
        with self._timed() as comm:
            return [json.loads(text) for text in comm.allgather(json.dumps(item))]

    def split(self, color: int, key: int) -> MpiComm:
        with self._timed() as comm:
            return MpiComm(cast("MPI.Intracomm", comm.Split(color, key)))

    def barrier(self) -> None:
        with self._timed() as comm:
            comm.Barrier()

    def free(self) -> None:
        if self._comm is not None and not MPI.Is_finalized():
            self._comm.Free()
        self._comm = None

    def abort(self, code: int) -> None:
        MPI.COMM_WORLD.Abort(code)


class _Sum(Work):
    """An all-reduce that MPI has begun. `total` is what it writes to; it stays alive and unmoved until the end."""

    def __init__(self, comm: MpiComm, tensor: Tensor, total: Tensor, request: MPI.Request) -> None:
        self._comm = comm
        self._tensor = tensor
        self._total = total
        self._request: MPI.Request | None = request

    def wait(self) -> None:
        if self._request is not None:
            with self._comm._timed():
                self._request.Wait()
                self._finish()

    def test(self) -> bool:
        if self._request is not None:
            with self._comm._timed():
                if self._request.Test():
                    self._finish()
        return self._request is None

    def _finish(self) -> None:
        restore(self._tensor, self._total)
        self._request = None


def _numel(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _memory(address: int, size: int) -> MPI.memory | None:
    return MPI.memory.fromaddress(address, size) if size else None


def _typed(tensor: Tensor) -> _Buffer:
    """A tensor to be summed."""
    size = tensor.numel() * tensor.element_size()
    return [_memory(tensor.data_ptr(), size), tensor.numel(), _TYPES[tensor.dtype]]


def _bytes(tensor: Tensor) -> _Buffer:
    """A tensor to be moved."""
    size = tensor.numel() * tensor.element_size()
    return [_memory(tensor.data_ptr(), size), size, MPI.BYTE]


def _pieces(tensors: Sequence[Tensor]) -> _Buffer:
    """One piece per rank, each wherever it lies in memory: sizes and displacements in bytes from the lowest address."""
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    places = [tensor.data_ptr() for tensor in tensors]
    held = [(place, place + size) for place, size in zip(places, sizes, strict=True) if size]
    base = min((start for start, _ in held), default=0)
    end = max((stop for _, stop in held), default=0)
    displacements = [place - base if size else 0 for place, size in zip(places, sizes, strict=True)]
    return [_memory(base, end - base), (sizes, displacements), MPI.BYTE]
