"""What the runtime asks of a communicator, and the little that all communicators share.

A `Comm` is an ordered group of ranks. Every collective is entered by all of its ranks in one order, `exchange` by
those that are named. Tensors are contiguous and lie in CPU memory. Sums are taken in the tensor's own type, except
that float16 and bfloat16 are summed in float32 and rounded once, that bool is "any", and that complex numbers are
summed as pairs. The result of a sum is the same to the bit on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from autopar.runtime.transport.device import cuda_aware

# one per rank; a tensor is cut along its first dim, which is best where all are equal
Pieces = Sequence[Tensor] | Tensor


HALVES = (torch.float16, torch.bfloat16)  # summed in float32, and rounded once


class Work(Protocol):
    """A collective or a message under way. Its tensor is not to be touched until `wait` has returned."""

    def wait(self) -> None:
        """Return once the result stands in the tensor."""

    def test(self) -> bool:
        """Whether the result stands in the tensor already; lets the transport make progress."""


class Counter(Protocol):
    """A number that the ranks of a group draw from, each when it likes and without the others."""

    def draw(self) -> int:
        """The number as it stands, which is one more from then on: every number from 0 on is drawn once."""

    def free(self) -> None:
        """Give the number's memory back. Collective; nobody may draw afterwards."""


class Comm(Protocol):
    """An ordered group of ranks that exchange tensors."""

    @property
    def rank(self) -> int:
        """This process's place in the group, 0 to size - 1."""

    @property
    def size(self) -> int:
        """How many ranks the group has."""

    @property
    def seconds(self) -> float:
        """Wall seconds that this rank has spent inside calls so far."""

    @property
    def largest_tag(self) -> int:
        """The tags of messages are below this number."""

    def empty(self, numel: int, dtype: torch.dtype) -> Tensor:
        """A flat tensor, of no particular content, that sums leave where it lies: the fastest to `all_reduce`.

        Collective. It may lie in memory that the ranks of a node share, but is this rank's alone; all ranks sum it as a
        whole, or none does. It lives until `release` or `free`.
        """

    def release(self, tensor: Tensor) -> None:
        """Give the memory of a tensor from `empty` back; nobody may touch it afterwards. Collective."""

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace `tensor` by the sum over all ranks."""

    def start_all_reduce(self, tensor: Tensor) -> Work:
        """Begin `all_reduce`; the sum stands in `tensor` once the returned work is done."""

    def all_gather(self, tensor: Tensor, outs: Pieces) -> None:
        """Fill ``outs[i]`` with rank i's `tensor`. Sizes may differ between ranks; any may be empty."""

    def reduce_scatter(self, parts: Pieces, out: Tensor) -> None:
        """Fill `out` with the sum over all ranks of their ``parts[rank]``."""

    def all_to_all(self, sends: Pieces, recvs: Pieces) -> None:
        """Send ``sends[j]`` to rank j and fill ``recvs[i]`` from rank i. Sizes may differ; any may be empty.

        Both are sequences, or both are tensors, alike on all ranks.
        """

    def exchange(self, sends: dict[int, Tensor], recvs: dict[int, Tensor]) -> None:
        """Send to and receive from the named other ranks only; returns when all of it is done."""

    def start_send(self, tensor: Tensor, to: int, tag: int, what: str) -> Work:
        """Begin to send to another rank, which receives by the same `tag`, a number from 0 on; waits for nobody.

        Messages of one tag arrive in the order in which they are sent. `what` names the message where somebody waits for it.
        """

    def start_receive(self, tensor: Tensor, source: int, tag: int, what: str) -> Work:
        """Begin to fill `tensor` with what `source` sends under the same `tag`."""

    def note(self, what: str, file: str, line: int) -> None:
        """Let whoever watches over this rank know what it begins to compute, and in which line of a program."""

    def broadcast(self, tensor: Tensor, root: int) -> None:
        """Fill `tensor` on every rank with that of `root`."""

    def gather_objects(self, item: object) -> list[object]:
        """Every rank's `item`, in rank order, on every rank. Items are plain JSON."""

    def split(self, color: int, key: int) -> Comm:
        """The group of the ranks that give the same `color`, ordered by `key`, then by rank."""

    def counter(self) -> Counter:
        """A new number to draw from, which begins at 0. Collective."""

    def barrier(self) -> None:
        """Return once every rank has called it."""

    def free(self) -> None:
        """Give the group's resources back. Nothing may be under way; a second call does nothing."""

    def abort(self, code: int) -> None:
        """End the whole job, not this group alone, with exit status `code`."""


def pieces_of(pieces: Pieces) -> Sequence[Tensor]:
    """The pieces one by one."""
    return pieces.unbind() if isinstance(pieces, Tensor) else pieces


def summable(tensor: Tensor) -> Tensor:
    """`tensor` itself where it can be summed as it stands, and otherwise a copy (or a view) that can be."""
    if tensor.dtype in HALVES:
        return tensor.float()
    if tensor.dtype == torch.bool:
        return tensor.int()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def restore(tensor: Tensor, summed: Tensor) -> None:
    """Put a sum taken over ``summable(tensor)`` back into `tensor`."""
    if summed.data_ptr() != tensor.data_ptr():
        tensor.copy_(summed)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The elements of `parts` one after another, without a copy where they already lie so in one storage."""
    place = parts[0].data_ptr()
    for part in parts:
        if part.data_ptr() != place and part.numel():
            return torch.cat([part.reshape(-1) for part in parts])
        place += part.numel() * part.element_size()
    total = sum(part.numel() for part in parts)
    if parts[0].untyped_storage().nbytes() < (parts[0].storage_offset() + total) * parts[0].element_size():
        return torch.cat([part.reshape(-1) for part in parts])
    return parts[0].as_strided((total,), (1,))


def check_tensors(where: str, tensors: Sequence[Tensor]) -> None:
    """Tensors handed to a communicator are contiguous and where it can reach them; anything else is a mistake of ours."""
    for tensor in tensors:
        assert tensor.is_contiguous(), f"{where}: a tensor of shape {tuple(tensor.shape)} is not contiguous"
        assert tensor.is_cpu or cuda_aware(), f"{where}: a tensor lies on {tensor.device}, not in CPU memory"
