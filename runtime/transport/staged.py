"""A communicator that also takes tensors of a device, whatever the communicator under it can reach.

    stage(comm)  ->  the same ranks and calls;  device.py has the copies and the host buffers

Device tensors are copied to pinned host memory, the wrapped method works there, and results are copied back on the
current stream. A call waits for the device before data leave it, since MPI knows nothing of streams; it does not wait
for what it copies back. Tensors of the CPU pass through, and one call may have both.

Over a CUDA-aware MPI, device pointers go straight to it where that is safe: sums, broadcasts, exchanges, all-to-alls,
and all-gathers of one size. The rest is staged there too: Open MPI takes no device memory in collectives that do not
block, what is not in one piece of memory has no common address on a device, and sums through a node's shared memory are
the CPU's work. A blocking sum over such an MPI has its tensor on the device on all ranks or on none.

A communicator over NCCL would stand in the place of `StagedComm`: another implementation of `Comm`, made in `stage` from
the same `comm`, over which it tells NCCL's identifier to all ranks, and to which it leaves CPU tensors and objects.
"""

# ruff: noqa: D102  (the methods of a communicator are described once, in base.py)

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from autopar.runtime.transport.base import Comm, Pieces, Work, restore, summable
from autopar.runtime.transport.device import CUDA, HostBuffers, HostCopies, cuda_aware
from autopar.runtime.transport.forwarding import ForwardingComm
from autopar.runtime.transport.world import simulated_world


def stage(comm: Comm) -> Comm:
    """`comm` itself without CUDA; otherwise one that takes device tensors too. What forwards was staged before."""
    if isinstance(comm, ForwardingComm) or not torch.cuda.is_available():
        return comm
    return StagedComm(comm, HostBuffers(CUDA), simulated_world() is None and cuda_aware())


class StagedComm(ForwardingComm):
    """`inner`, which device tensors reach through `host`, or, where `direct` and it can, as they are.

    `seconds` are without the waits for the device: those are for computing, whoever does the waiting.
    """

    def __init__(self, inner: Comm, host: HostBuffers, direct: bool = False) -> None:
        super().__init__(inner)
        self._host = host
        self._direct = direct
        self._on_host = host.device.on_host

    def all_reduce(self, tensor: Tensor) -> None:
        if self._on_host(tensor):
            self._inner.all_reduce(tensor)
            return
        total = summable(tensor) if self._direct else tensor  # MPI cannot convert on the device; torch can
        both = (total,)
        with self._reached(both, both, True) as ((place,), _):
            self._inner.all_reduce(place)
        restore(tensor, total)

    def start_all_reduce(self, tensor: Tensor) -> Work:
        """As in base.py; waits until the tensor is computed, so that all ranks begin their sums in one order."""
        if self._on_host(tensor):
            return self._inner.start_all_reduce(tensor)
        copies = self._host.place((tensor,))
        copies.to_host()
        return _StagedWork(self._inner.start_all_reduce(copies.places[0]), copies)

    def all_gather(self, tensor: Tensor, outs: Pieces) -> None:
        takes = _listed(outs)
        if self._on_host(tensor) and self._all_on_host(takes):
            self._inner.all_gather(tensor, outs)
            return
        with self._reached((tensor,), takes, isinstance(outs, Tensor)) as ((sent,), places):
            self._inner.all_gather(sent, _as_given(outs, places))

    def reduce_scatter(self, parts: Pieces, out: Tensor) -> None:
        gives = _listed(parts)
        if self._on_host(out) and self._all_on_host(gives):
            self._inner.reduce_scatter(parts, out)
            return
        with self._reached(gives, (out,), False) as (sent, (place,)):
            self._inner.reduce_scatter(_as_given(parts, sent), place)

    def all_to_all(self, sends: Pieces, recvs: Pieces) -> None:
        gives, takes = _listed(sends), _listed(recvs)
        if self._all_on_host(gives) and self._all_on_host(takes):
            self._inner.all_to_all(sends, recvs)
            return
        with self._reached(gives, takes, True) as (sent, places):
            self._inner.all_to_all(_as_given(sends, sent), _as_given(recvs, places))

    def exchange(self, sends: dict[int, Tensor], recvs: dict[int, Tensor]) -> None:
        if self._all_on_host(sends.values()) and self._all_on_host(recvs.values()):
            self._inner.exchange(sends, recvs)
            return
        with self._reached(tuple(sends.values()), tuple(recvs.values()), True) as (sent, places):
            self._inner.exchange(dict(zip(sends, sent, strict=True)), dict(zip(recvs, places, strict=True)))

    def start_send(self, tensor: Tensor, to: int, tag: int, what: str) -> Work:
        if self._on_host(tensor):
            return self._inner.start_send(tensor, to, tag, what)
        copies = self._host.place((tensor,))
        copies.to_host()
        return _StagedWork(self._inner.start_send(copies.places[0], to, tag, what), copies, back=False)

    def start_receive(self, tensor: Tensor, source: int, tag: int, what: str) -> Work:
        if self._on_host(tensor):
            return self._inner.start_receive(tensor, source, tag, what)
        copies = self._host.place((tensor,))
        return _StagedWork(self._inner.start_receive(copies.places[0], source, tag, what), copies)

    def broadcast(self, tensor: Tensor, root: int) -> None:
        if self._on_host(tensor):
            self._inner.broadcast(tensor, root)
            return
        gives, takes = ((tensor,), ()) if self.rank == root else ((), (tensor,))
        with self._reached(gives, takes, True) as (sent, places):
            self._inner.broadcast((*sent, *places)[0], root)

    def split(self, color: int, key: int) -> Comm:
        return StagedComm(self._inner.split(color, key), self._host, self._direct)

    def _all_on_host(self, tensors: Iterable[Tensor]) -> bool:
        return all(map(self._on_host, tensors))

    @contextmanager
    def _reached(
        self, gives: Sequence[Tensor], takes: Sequence[Tensor], straight: bool
    ) -> Iterator[tuple[Sequence[Tensor], Sequence[Tensor]]]:
        """Where the wrapped method finds what this rank gives, and leaves what it takes; the same if these are one.

        `straight` says that the method takes device memory as it is, if MPI does.
        """
        if self._direct and straight:
            self._host.settle((*gives, *takes))
            yield gives, takes
            return
        inputs = self._host.place(gives)
        inputs.to_host()
        outputs = inputs if takes is gives else self._host.place(takes)
        yield inputs.places, outputs.places
        outputs.to_device()
        inputs.give_up()


def _listed(pieces: Pieces) -> Sequence[Tensor]:
    return (pieces,) if isinstance(pieces, Tensor) else pieces


def _as_given(pieces: Pieces, tensors: Sequence[Tensor]) -> Pieces:
    """What stands for the tensors of `pieces`, as one tensor if that is one."""
    return tensors[0] if isinstance(pieces, Tensor) else tensors


class _StagedWork(Work):
    """A call under way on the host; the tensor gets its result, if it has one, on the stream that is current at the end."""

    def __init__(self, work: Work, copies: HostCopies, back: bool = True) -> None:
        self._work = work
        self._back = back
        self._copies: HostCopies | None = copies

    def wait(self) -> None:
        if self._copies is not None:
            self._work.wait()
            self._finish(self._copies)

    def test(self) -> bool:
        if self._copies is not None and self._work.test():
            self._finish(self._copies)
        return self._copies is None

    def _finish(self, copies: HostCopies) -> None:
        self._copies = None
        copies.to_device() if self._back else copies.give_up()
