"""A communicator that hands every call on to another: what wraps one overrides the calls that it does something about."""

# ruff: noqa: D102  (the methods of a communicator are described once, in base.py)

from __future__ import annotations

import torch
from torch import Tensor

from autopar.runtime.transport.base import Comm, Counter, Pieces, Work


class ForwardingComm(Comm):
    """The ranks and calls of `inner`, which takes device tensors wherever this one does."""

    def __init__(self, inner: Comm) -> None:
        self._inner = inner

    @property
    def rank(self) -> int:
        return self._inner.rank

    @property
    def size(self) -> int:
        return self._inner.size

    @property
    def seconds(self) -> float:
        return self._inner.seconds

    @property
    def largest_tag(self) -> int:
        return self._inner.largest_tag

    def empty(self, numel: int, dtype: torch.dtype) -> Tensor:
        return self._inner.empty(numel, dtype)

    def release(self, tensor: Tensor) -> None:
        self._inner.release(tensor)

    def all_reduce(self, tensor: Tensor) -> None:
        self._inner.all_reduce(tensor)

    def start_all_reduce(self, tensor: Tensor) -> Work:
        return self._inner.start_all_reduce(tensor)

    def all_gather(self, tensor: Tensor, outs: Pieces) -> None:
        self._inner.all_gather(tensor, outs)

    def reduce_scatter(self, parts: Pieces, out: Tensor) -> None:
        self._inner.reduce_scatter(parts, out)

    def all_to_all(self, sends: Pieces, recvs: Pieces) -> None:
        self._inner.all_to_all(sends, recvs)

    def exchange(self, sends: dict[int, Tensor], recvs: dict[int, Tensor]) -> None:
        self._inner.exchange(sends, recvs)

    def start_send(self, tensor: Tensor, to: int, tag: int, what: str) -> Work:
        return self._inner.start_send(tensor, to, tag, what)

    def start_receive(self, tensor: Tensor, source: int, tag: int, what: str) -> Work:
        return self._inner.start_receive(tensor, source, tag, what)

    def note(self, what: str, file: str, line: int) -> None:
        self._inner.note(what, file, line)

    def broadcast(self, tensor: Tensor, root: int) -> None:
        self._inner.broadcast(tensor, root)

    def gather_objects(self, item: object) -> list[object]:
        return self._inner.gather_objects(item)

    def split(self, color: int, key: int) -> Comm:
        return self._inner.split(color, key)

    def counter(self) -> Counter:
        return self._inner.counter()

    def barrier(self) -> None:
        self._inner.barrier()

    def free(self) -> None:
        self._inner.free()

    def abort(self, code: int) -> None:
        self._inner.abort(code)
