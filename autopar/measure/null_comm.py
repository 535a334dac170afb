"""A communicator that sends nothing: the local half of a distributed form runs as it would, and nobody has to answer."""

# ruff: noqa: D102  (the methods of a communicator are described once, in base.py)

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from autopar.runtime.transport.base import Pieces, pieces_of


class _Done:
    """A collective that is done."""

    def wait(self) -> None:
        return

    def test(self) -> bool:
        return True


class _Count:
    """A number that nobody else draws from."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def draw(self) -> int:
        return next(self._numbers)

    def free(self) -> None:
        return


class Mute:
    """The `rank`-th of `size` ranks, all others silent. What others would send reads as zeros, sums as this rank's addend."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self.seconds = 0.0

    @property
    def largest_tag(self) -> int:
        return 0

    def empty(self, numel: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(numel, dtype=dtype)

    def release(self, tensor: Tensor) -> None:
        return

    def all_reduce(self, tensor: Tensor) -> None:
        return

    def start_all_reduce(self, tensor: Tensor) -> _Done:
        return _Done()

    def all_gather(self, tensor: Tensor, outs: Pieces) -> None:
        self._receive(tensor, outs)

    def reduce_scatter(self, parts: Pieces, out: Tensor) -> None:
        out.copy_(pieces_of(parts)[self.rank])

    def all_to_all(self, sends: Pieces, recvs: Pieces) -> None:
        self._receive(pieces_of(sends)[self.rank], recvs)

    def exchange(self, sends: dict[int, Tensor], recvs: dict[int, Tensor]) -> None:
        for out in recvs.values():
            out.zero_()

    def start_send(self, tensor: Tensor, to: int, tag: int, what: str) -> _Done:
        return _Done()

    def start_receive(self, tensor: Tensor, source: int, tag: int, what: str) -> _Done:
        tensor.zero_()
        return _Done()

    def note(self, what: str, file: str, line: int) -> None:
        return

    def broadcast(self, tensor: Tensor, root: int) -> None:
        return

    def gather_objects(self, item: object) -> list[object]:
        return [item] * self.size

    def split(self, color: int, key: int) -> Mute:
        return self

    def counter(self) -> _Count:
        return _Count()

    def barrier(self) -> None:
        return

    def free(self) -> None:
        return

    def abort(self, code: int) -> None:
        raise SystemExit(code)

    def _receive(self, own: Tensor, outs: Pieces) -> None:
        """This rank's own piece, and zeros for those of the others."""
        for i, out in enumerate(pieces_of(outs)):
            if i == self.rank:
                out.copy_(own)
            else:
                out.zero_()
