"""The rows that change owner, packed and sent in few messages: tensors of one dtype together, in pieces of bounded size.

Tensors are taken in batches, the same on all ranks of the group, whose largest parts fit into `PIECE` bytes; a larger tensor is a
batch of its own. A batch's new parts exist beside its old ones, which then go. What one rank sends another in a batch is cut into
messages of at most PIECE over the number of others, a message of either direction in each round. So beside the parts a rank holds

    one batch            the larger of PIECE and the largest part that moves
    messages             twice PIECE

and never a whole tensor, nor all of its parts twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from autopar.runtime.parameters.moving.contents import HeldPart
from autopar.runtime.parameters.moving.owners import Repartition
from autopar.runtime.parameters.moving.regions import Region
from autopar.runtime.transport.base import Comm

PIECE = 1 << 24  # bytes
_Pieces = list[tuple[Tensor, Region]]


@dataclass(frozen=True, slots=True)
class Moving:
    """A tensor that moves, and the order of memory of its new part."""

    of: HeldPart
    repartition: Repartition
    form: torch.memory_format

    @property
    def bytes(self) -> int:
        """The size of its largest part on any rank."""
        return self.repartition.largest * self.of.dtype.itemsize

    def part(self, rank: int) -> Tensor:
        """The new part, with what stays on this rank in its place."""
        old, made = self.of.read(), self.repartition.shape(rank)
        new = torch.empty(made, dtype=old.dtype, device=old.device, memory_format=self.form)
        source, target = self.repartition.handed(rank, rank)
        if source.numel:
            target.put(new, source.take(old))
        return new


def exchange(comm: Comm, every: Sequence[Moving], piece: int) -> None:
    """Move tensors, the same ones in one order on all ranks of the group. Collective."""
    for batch in batches(every, piece):
        parts = [moving.part(comm.rank) for moving in batch]
        _hand_over(comm, batch, parts, piece)
        for moving, part in zip(batch, parts, strict=True):
            moving.of.store(part)


def batches(every: Sequence[Moving], piece: int) -> Iterator[list[Moving]]:
    """Tensors of one dtype each, whose largest parts fit into so many bytes together, or one alone."""
    batch: list[Moving] = []
    size = 0
    for moving in sorted(every, key=lambda moving: str(moving.of.dtype)):
        fits = batch and batch[0].of.dtype == moving.of.dtype and size + moving.bytes <= piece
        if batch and not fits:
            yield batch
            batch, size = [], 0
        batch.append(moving)
        size += moving.bytes
    if batch:
        yield batch


def _hand_over(comm: Comm, batch: Sequence[Moving], parts: Sequence[Tensor], piece: int) -> None:
    """Send the rows of old parts that others are to have, and fill the new ones."""
    sends: dict[int, _Pieces] = {}
    recvs: dict[int, _Pieces] = {}
    for moving, part in zip(batch, parts, strict=True):
        for peer in moving.repartition.peers[comm.rank]:
            if peer != comm.rank:
                _note(sends, peer, moving.of.read(), moving.repartition.handed(comm.rank, peer)[0])
                _note(recvs, peer, part, moving.repartition.handed(peer, comm.rank)[1])
    most = max(1, piece // (max(1, comm.size - 1) * parts[0].element_size()))
    outgoing, incoming = _messages(sends, most), _messages(recvs, most)
    for gives, takes in zip_longest(outgoing, incoming):
        buffers = {peer: _room(pieces) for peer, pieces in (takes or {}).items()}
        comm.exchange({peer: _packed(pieces) for peer, pieces in (gives or {}).items()}, buffers)
        for peer, buffer in buffers.items():
            for (part, region), values in zip(takes[peer], _split(buffer, takes[peer]), strict=True):
                region.put(part, values)


def _note(pieces: dict[int, _Pieces], peer: int, tensor: Tensor, region: Region) -> None:
    if region.numel:
        pieces.setdefault(peer, []).append((tensor, region))


def _messages(pieces: dict[int, _Pieces], most: int) -> Iterator[dict[int, _Pieces]]:
    """Round by round one message per peer, of at most so many elements; as many rounds as the longest needs."""
    cut = [[(peer, message) for message in _cut(theirs, most)] for peer, theirs in pieces.items()]
    for messages in zip_longest(*cut):
        yield dict(message for message in messages if message is not None)


def _cut(pieces: _Pieces, most: int) -> Iterator[_Pieces]:
    """The pieces in messages. Who sends and who receives cut alike, since this depends on the shapes of regions alone."""
    message: _Pieces = []
    size = 0
    for tensor, region in pieces:
        for one in region.pieces(most):
            if message and size + one.numel > most:
                yield message
                message, size = [], 0
            message.append((tensor, one))
            size += one.numel
    yield message


def _room(pieces: _Pieces) -> Tensor:
    return pieces[0][0].new_empty(sum(region.numel for _, region in pieces))


def _packed(pieces: _Pieces) -> Tensor:
    buffer = _room(pieces)
    for (tensor, region), values in zip(pieces, _split(buffer, pieces), strict=True):
        values.copy_(region.take(tensor))
    return buffer


def _split(buffer: Tensor, pieces: _Pieces) -> list[Tensor]:
    """The stretch of a message that each piece has, in its shape."""
    stretches = torch.split(buffer, [region.numel for _, region in pieces])
    return [stretch.view(region.shape) for stretch, (_, region) in zip(stretches, pieces, strict=True)]
