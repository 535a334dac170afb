"""Sums over a group of ranks through shared memory within a node, and through MPI between nodes.

A flat tensor of n elements is cut into as many slices as take part per node. With x_r the tensor of rank r, whole in the
memory that the node shares, and s one of its slices, the rank that has slice s

    1. adds        x_r[s] += x_q[s] for all other ranks q of the node
    2. all-reduces x_r[s] with the ranks that have slice s on the other nodes, if there are any
    3. spreads     x_q[s] := x_r[s] for all other ranks q of the node

so that on P ranks of one node each of them reads n elements and writes n, and between nodes every element travels once per
node (the hierarchical all-reduce of Thakur, Rabenseifner and Gropp, 2005). Every slice is summed by one rank, in one
order: the result is the same to the bit on every rank of a node, and the same between nodes as MPI's is.

A tensor whose memory comes from `SharedSums.empty` is summed where it lies. Any other goes through slots of shared memory, a
block at a time: what others sum is copied in while the block before it is being summed.
"""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from mpi4py import MPI
from torch import Tensor

from autopar.runtime.transport.mpi_buffers import typed
from autopar.runtime.transport.shared_memory import PostedSum, PostedSums, SharedMemory
from autopar.runtime.transport.shutdown import all_leave

_BLOCK_BYTES = 1 << 19  # of one slot
_CHUNK_BYTES = 1 << 18  # added and spread at once: what was added is still in the cache when it is spread
_ALIGNED = 64  # elements: slices end on cache lines
_MEMORY = Path("/dev/shm")


class SharedSums:
    """The sums of one communicator. Making and freeing it is collective.

    Alike on all ranks: `usable`, whether any two ranks share a node; `one_node`, whether all do; `calm`, whether each of
    them then has a core for itself.
    """

    def __init__(self, comm: MPI.Intracomm, crowded: bool) -> None:
        self._comm = comm
        self._node = cast("MPI.Intracomm", comm.Split_type(MPI.COMM_TYPE_SHARED, comm.rank))
        sizes = comm.allgather(self._node.size)
        self._slices = min(sizes)
        self.one_node = self._slices == comm.size
        self.usable = max(sizes) > 1
        self.calm = self.one_node and not crowded
        self._peers: MPI.Intracomm | None = None
        if self.usable and not self.one_node:
            self._peers = self._peers_of(comm)
        self._rounds = PostedSums(self._node, crowded) if self.usable else None
        self._memories: dict[int, SharedMemory] = {}
        self._slots: SharedMemory | None = None
        atexit.register(self._leave)

    def _peers_of(self, comm: MPI.Intracomm) -> MPI.Intracomm | None:
        """The ranks with this one's slice on all nodes; None for a rank without a slice."""
        rank = self._node.rank
        peers = comm.Split(rank if rank < self._slices else MPI.UNDEFINED, comm.rank)
        return cast("MPI.Intracomm", peers) if peers != MPI.COMM_NULL else None

    def empty(self, numel: int, dtype: torch.dtype) -> Tensor:
        """Memory for a tensor that is summed where it lies. Collective, alike on all ranks."""
        size = numel * dtype.itemsize
        if not size or not self.usable or not self._fits(size):
            return torch.empty(numel, dtype=dtype)
        shared = SharedMemory(self._node, size)
        tensor = shared.views(dtype)[self._node.rank]
        self._memories[tensor.data_ptr()] = shared
        return tensor

    def release(self, tensor: Tensor) -> None:
        """Give the memory of a tensor from `empty` back. Collective."""
        shared = self._memories.pop(tensor.data_ptr(), None)
        if shared is not None:
            shared.free()

    def _fits(self, size: int) -> bool:
        """Whether every node has room; a file system that runs full kills whoever writes to it."""
        free = math.inf
        if _MEMORY.is_dir():
            stat = os.statvfs(_MEMORY)
            free = stat.f_bavail * stat.f_frsize
        return bool(self._comm.allreduce(free > 2 * size * self._node.size, MPI.LAND))

    def in_shared_memory(self, tensor: Tensor) -> bool:
        """Whether the tensor's memory comes from `empty`."""
        return tensor.data_ptr() in self._memories

    def start(self, tensor: Tensor) -> PostedSum:
        """Begin to sum a tensor from `empty` where it lies."""
        return self._post(tensor.view(-1), self._memories[tensor.data_ptr()].views(tensor.dtype))

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a contiguous tensor by the sum over all ranks."""
        if self.in_shared_memory(tensor):
            self.wait(self.start(tensor))
            return
        flat = tensor.view(-1)
        block = _BLOCK_BYTES // tensor.element_size()
        views = self._views(tensor.dtype)
        last: tuple[PostedSum, Tensor, list[Tensor]] | None = None
        for i, low in enumerate(range(0, flat.numel(), block)):
            mine = flat[low : low + block]
            addends, summed = ([view[(i % 2 + at) * block :][: mine.numel()] for view in views] for at in (0, 2))
            begun = self._stage(mine, addends, summed[self._node.rank])
            if last is not None:
                self._fetch(*last)
            last = begun, mine, summed
        if last is not None:
            self._fetch(*last)

    def reduce_scatter(self, parts: Sequence[Tensor], out: Tensor) -> None:
        """Fill `out` with the sum over the ranks of one node of their ``parts[rank]``."""
        rank, size = self._node.rank, self._node.size
        block = _BLOCK_BYTES // out.element_size() // size // _ALIGNED * _ALIGNED
        slots = self._views(out.dtype)
        flats = [part.view(-1) for part in parts]
        total = out.view(-1)
        rounds: list[PostedSum] = []
        for i, low in enumerate(range(0, max(flat.numel() for flat in flats), block)):
            if i >= 2:
                self.wait(rounds[i - 2])
            start = i % 2 * block * size
            for other, flat in enumerate(flats):
                piece = flat[low : low + block]
                if other != rank and piece.numel():
                    slots[rank][start + other * block :][: piece.numel()].copy_(piece)
            mine = flats[rank][low : low + block]
            here = start + rank * block
            addends = [view[here : here + mine.numel()] for other, view in enumerate(slots) if other != rank]
            rounds.append(self._posting.post(partial(_sum_into, total[low : low + block], mine, addends)))
        for pending in rounds[-2:]:
            self.wait(pending)

    def wait(self, pending: PostedSum) -> None:
        """Return when the round is over."""
        self._posting.wait(pending)

    def test(self, pending: PostedSum) -> bool:
        """Whether the round is over; makes progress."""
        if not pending.over:
            self._posting.progress()
        return pending.over

    def free(self) -> None:
        """Give all memory and communicators back; nothing may be under way."""
        atexit.unregister(self._leave)
        for shared in self._memories.values():
            shared.free()
        self._memories.clear()
        if self._slots is not None:
            self._slots.free()
        if self._rounds is not None:
            self._rounds.free()
        if self._peers is not None:
            self._peers.Free()
        self._node.Free()

    def _leave(self) -> None:
        if all_leave(self._comm):
            self.free()

    @property
    def _posting(self) -> PostedSums:
        assert self._rounds is not None, "no two ranks of this group share a node"
        return self._rounds

    def _views(self, dtype: torch.dtype) -> list[Tensor]:
        """Every rank's slots: two blocks given to others, two summed for others; even and odd rounds take turns."""
        if self._slots is None:
            self._slots = SharedMemory(self._node, 4 * _BLOCK_BYTES)
        return self._slots.views(dtype)

    def _post(self, mine: Tensor, views: Sequence[Tensor]) -> PostedSum:
        """A round that sums `mine`, which is this rank's view, and writes the result to all of them."""
        rank = self._node.rank
        low, high = self._slice(mine.numel(), rank)
        others = [view[low:high] for other, view in enumerate(views) if other != rank]
        return self._sum(mine[low:high], others, others)

    def _stage(self, mine: Tensor, addends: Sequence[Tensor], summed: Tensor) -> PostedSum:
        """A round that sums `mine`, memory of this rank alone, and leaves this rank's slice of the result in `summed`.

        The `addends` for others and what is `summed` lie apart: a slow rank may still fetch a slice of two rounds ago
        when this one gives again.
        """
        rank = self._node.rank
        low, high = self._slice(mine.numel(), rank)
        addends[rank][:low].copy_(mine[:low])
        addends[rank][high:].copy_(mine[high:])
        others = [view[low:high] for other, view in enumerate(addends) if other != rank]
        return self._sum(mine[low:high], others, [summed[low:high]])

    def _fetch(self, begun: PostedSum, mine: Tensor, summed: Sequence[Tensor]) -> None:
        """Finish what `_stage` has begun: copy the slices that others have summed."""
        self.wait(begun)
        for other, view in enumerate(summed):
            if other != self._node.rank:
                low, high = self._slice(mine.numel(), other)
                mine[low:high].copy_(view[low:high])

    def _sum(self, total: Tensor, addends: Sequence[Tensor], targets: Sequence[Tensor]) -> PostedSum:
        if self.one_node:
            return self._posting.post(partial(_add, total, addends, targets))
        if self._peers is None:
            return self._posting.post()
        send = partial(self._add_and_send, total, addends)
        return self._posting.post(send, partial(_spread, total, targets))

    def _add_and_send(self, total: Tensor, addends: Sequence[Tensor]) -> MPI.Request:
        assert self._peers is not None
        _add(total, addends, ())
        return self._peers.Iallreduce(MPI.IN_PLACE, typed(total), MPI.SUM)

    def _slice(self, numel: int, rank: int) -> tuple[int, int]:
        """The elements that `rank` of the node sums; none where its node has more ranks than the smallest has."""
        step = -(-numel // (self._slices * _ALIGNED)) * _ALIGNED
        low = min(rank * step, numel)
        return low, min(low + step, numel) if rank < self._slices else low


def _add(total: Tensor, addends: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """``total += sum(addends)``, and copied to the targets."""
    step = _CHUNK_BYTES // total.element_size()
    for low in range(0, total.numel(), step):
        chunk = total[low : low + step]
        for addend in addends:
            chunk += addend[low : low + step]
        for target in targets:
            target[low : low + step].copy_(chunk)


def _spread(total: Tensor, targets: Sequence[Tensor]) -> None:
    for target in targets:
        target.copy_(total)


def _sum_into(out: Tensor, mine: Tensor, addends: Sequence[Tensor]) -> None:
    if addends and out.numel():
        torch.add(mine, addends[0], out=out)
        for addend in addends[1:]:
            out += addend
