"""Memory that MPI may not reach: which tensors lie there, and the host buffers through which they travel.

    HostBuffers.place(tensors) -> HostCopies   a place in host memory for each; a tensor that lies there already is its own
    HostCopies.to_host()                       device -> host, and wait until the data are there
    HostCopies.to_device()                     host -> device, on the current stream; nobody waits

The tensors of one call that have one type get pieces of one buffer, one after another, which is how a communicator
likes them best. Buffers are kept and reused by type and size, rounded up to a power of two, so that a program has few
of them however its boundaries move. One that is still being copied to the device is marked by an event, for which its
next user waits.

`Device` is all that this knows of CUDA: tests put another in its place.
"""

from __future__ import annotations

import ctypes
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor


class Mark(Protocol):
    """A point in the work of a device."""

    def synchronize(self) -> None:
        """Return once the device has come so far."""


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of memory that is not the host's."""

    on_host: Callable[[Tensor], bool]  # whether a tensor does not lie there; asked of every tensor of every call
    buffer: Callable[[int, torch.dtype], Tensor]  # host memory for so many elements, for copies from and to the device
    mark: Callable[[Tensor], Mark]  # after all that the current stream of this tensor's device was given so far


def _pinned(numel: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(numel, dtype=dtype, pin_memory=True)


def _mark(tensor: Tensor) -> Mark:
    event: Mark = torch.cuda.current_stream(tensor.device).record_event()
    return event


CUDA = Device(attrgetter("is_cpu"), _pinned, _mark)


class HostBuffers:
    """Host buffers of one kind of device. Not for several threads at a time, as communicators are not either."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._free: dict[tuple[torch.dtype, int], deque[tuple[Tensor, list[Mark]]]] = defaultdict(deque)

    def place(self, tensors: Sequence[Tensor]) -> HostCopies:
        """Places for these tensors; their contents are not there yet."""
        sizes: dict[torch.dtype, int] = {}
        for tensor in tensors:
            if not self.device.on_host(tensor):
                sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
        return HostCopies(self, tensors, {dtype: self._take(numel, dtype) for dtype, numel in sizes.items()})

    def settle(self, tensors: Sequence[Tensor]) -> None:
        """Wait until nothing that was given to the current streams works on these tensors any more."""
        for mark in self.marks(tensors):
            mark.synchronize()

    def marks(self, tensors: Sequence[Tensor]) -> list[Mark]:
        """What the current stream of each device of these tensors has been given so far."""
        devices = {tensor.device: tensor for tensor in tensors if not self.device.on_host(tensor)}
        return [self.device.mark(tensor) for tensor in devices.values()]

    def give_back(self, buffer: Tensor, marks: list[Mark]) -> None:
        """Keep a buffer for others, who wait for `marks` before they touch it."""
        self._free[buffer.dtype, buffer.numel()].append((buffer, marks))

    def _take(self, numel: int, dtype: torch.dtype) -> Tensor:
        room = 1 << max(numel - 1, 0).bit_length()
        free = self._free[dtype, room]
        if not free:
            return self.device.buffer(room, dtype)
        buffer, marks = free.popleft()
        for mark in marks:
            mark.synchronize()
        return buffer


class HostCopies:
    """Tensors and their places in host memory; `to_device` or `give_up` ends it."""

    def __init__(self, host: HostBuffers, tensors: Sequence[Tensor], buffers: dict[torch.dtype, Tensor]) -> None:
        self._host = host
        self._tensors = tensors
        self._buffers = buffers
        used = dict.fromkeys(buffers, 0)
        self.places: list[Tensor] = []
        for tensor in tensors:
            place = tensor
            if not host.device.on_host(tensor):
                start = used[tensor.dtype]
                used[tensor.dtype] += tensor.numel()
                place = buffers[tensor.dtype][start : used[tensor.dtype]].view(tensor.shape)
            self.places.append(place)

    def to_host(self) -> None:
        """Fill the places from the tensors, and wait for it: what follows reads them on the host."""
        for tensor, place in zip(self._tensors, self.places, strict=True):
            if place is not tensor:
                place.copy_(tensor, non_blocking=True)
        self._host.settle(self._tensors)

    def to_device(self) -> None:
        """Fill the tensors from their places, in the order of the current stream."""
        for tensor, place in zip(self._tensors, self.places, strict=True):
            if place is not tensor:
                tensor.copy_(place, non_blocking=True)
        self.give_up(self._host.marks(self._tensors))

    def give_up(self, marks: list[Mark] | None = None) -> None:
        """Give the places up."""
        for buffer in self._buffers.values():
            self._host.give_back(buffer, marks or [])
        self._buffers = {}


def cuda_aware() -> bool:
    """Whether the MPI that this process has started takes pointers to CUDA memory; False if it has started none."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and _asked(mpi)


@lru_cache(maxsize=1)
def _asked(mpi: ModuleType) -> bool:
    """mpi4py does not pass the question on, but its module leads to the library that it is linked with."""
    info = mpi.COMM_WORLD.Get_info()
    kinds = info.Get("mpi_memory_alloc_kinds") or ""
    info.Free()
    return says_cuda(ctypes.CDLL(mpi.__file__), kinds)


def says_cuda(library: object, kinds: str) -> bool:
    """What an MPI library says of CUDA, by its own function if it has one, otherwise by the standard's list of kinds.

    Open MPI (from 2.0) and MPICH 5 have MPIX_Query_cuda_support; MPICH from 4.0 has MPIX_GPU_query_support, where CUDA
    is kind 0, and which says no where MPIR_CVAR_ENABLE_GPU is 0. `kinds` is "mpi_memory_alloc_kinds" (MPI 4.1, section
    11.4.3), such as "mpi,system,cuda:device".
    """
    query = getattr(library, "MPIX_Query_cuda_support", None)
    if query is not None:
        return bool(query() == 1)
    query = getattr(library, "MPIX_GPU_query_support", None)
    if query is not None:
        supported = ctypes.c_int(0)
        return bool(query(0, ctypes.byref(supported)) == 0 and supported.value)
    return any(kind in ("cuda", "cuda:device") for kind in kinds.split(","))
