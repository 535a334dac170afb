"""What a program communicates in one training step, recorded as it runs, so that each of it can be put to the adjoint test.

Python tells a recorder of every call of this thread (`sys.setprofile`), whatever name the program knows the function by. Noted are

    a primitive           called by the program, or by a function that it calls: a halo exchange inside `conv`
    a call of a `Comm`    that no primitive makes: a sum inside `batch_norm` or a loss, or in backward of gradients

each with its line of the program and the shape of what it was given. Calls over an axis of one rank, and what the session
says to keep the ranks in step, are left out. What a primitive sends in backward is its adjoint, and tested with it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor

from autopar.ir.layout import Layout
from autopar.runtime.primitives.conversion_table import COPIED, PARTIAL, SHARD, WITH_HALO
from autopar.runtime.transport.base import Comm, Pieces, pieces_of
from autopar.runtime.verification.adjoint_test import LinearMap, Pullback, differentiated

_BY_CODE: Mapping[CodeType, tuple[Callable[..., Tensor], Layout, Layout]] = {
    inspect.unwrap(row[0]).__code__: row for row in WITH_HALO
}
_OF_PRIMITIVES = tuple(f"autopar.runtime.{folder}." for folder in ("grid", "primitives", "partitions"))
_PASSED = (  # between a call and who wants it
    "autopar.runtime.transport.",
    "autopar.runtime.diagnostics.watched_comm",
    "autopar.runtime.functional.across_ranks",
)


@dataclass(frozen=True, slots=True)
class CommunicationCall:
    """A linear map over `comm`, as the program called it: where, inside which function of ours, on which local shape.

    `line` is 0 in backward. `detail` tells apart what else the call was given.
    """

    line: int
    inside: str
    primitive: str
    detail: str
    shape: tuple[int, ...]
    operator: LinearMap
    source: Layout
    target: Layout
    comm: Comm


class CallRecorder:
    """A context manager: `calls` are what this thread communicates inside, in order.

    `file` is the program's, whose lines are looked for; without it every call counts (backward, in which no line runs).
    """

    def __init__(self, file: str | None = None) -> None:
        self.calls: list[CommunicationCall] = []
        self._file = file
        self._before: Any = None

    def __enter__(self) -> CallRecorder:
        self._before = sys.getprofile()
        sys.setprofile(self._event)
        return self

    def __exit__(self, *failed: object) -> None:
        sys.setprofile(self._before)

    def _event(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        if frame.f_code in _BY_CODE:
            self._primitive(frame)
        elif frame.f_code.co_name in _COMM:
            self._comm(frame)

    def _primitive(self, frame: FrameType) -> None:
        function, source, target = _BY_CODE[frame.f_code]
        name = frame.f_code.co_name
        first, *others = inspect.signature(function).parameters
        arguments = {other: frame.f_locals[other] for other in others}
        axis, x = arguments["axis"], frame.f_locals[first]
        line, inside = self._place(frame)
        if axis.size == 1:
            return
        if name == "halo":
            arguments["value"] = 0.0  # padding with another number is affine, and its linear part this
        detail = ", ".join(f"{other}={value}" for other, value in arguments.items() if other != "axis")
        operator = differentiated(lambda x: function(x, **arguments))
        inside = "" if inside == name else inside
        self.calls.append(
            CommunicationCall(line, inside, name, detail, tuple(x.shape), operator, source, target, axis.comm)
        )

    def _comm(self, frame: FrameType) -> None:
        comm: Comm = frame.f_locals.get("self")  # type: ignore[assignment]  # of whatever class has a method called so
        caller = frame.f_back
        while caller is not None and _module(caller).startswith(_PASSED):
            if caller.f_code.co_name in _COMM:
                return  # made by another call of a communicator: one that wraps this one
            caller = caller.f_back
        if Comm not in type(comm).__mro__ or caller is None or _module(caller).startswith(_OF_PRIMITIVES):
            return
        line, inside = self._place(frame)
        if comm.size == 1 or (self._file is not None and not line):
            return
        name = frame.f_code.co_name
        sent = _COMM[name](comm, frame.f_locals)
        inside = inside or _module(caller).rpartition(".")[2]
        self.calls.append(CommunicationCall(line, inside, name, "", *sent, comm))

    def _place(self, frame: FrameType) -> tuple[int, str]:
        """The line of the program that is being run, 0 if none is, and the function that it has called."""
        called, at = frame, frame.f_back
        while at is not None:
            if at.f_code.co_filename == self._file:
                return at.f_lineno, called.f_code.co_name
            called, at = at, at.f_back
        return 0, ""


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


Exchange = Callable[[Comm, dict[int, Tensor], dict[int, Tensor]], None]
Sent = tuple[tuple[int, ...], LinearMap, Layout, Layout]  # as in `CommunicationCall`


def _summed(add: Callable[[Comm, Tensor], None], comm: Comm, arguments: Mapping[str, Any]) -> Sent:
    """Partial to Copied, which is its own adjoint: an all-reduce forward, and of the gradients' addends backward."""

    def total(x: Tensor) -> Tensor:
        y = x.clone()
        add(comm, y)
        return y

    return tuple(arguments["tensor"].shape), lambda x: (total(x), total), PARTIAL, COPIED


def _all_gather(comm: Comm, arguments: Mapping[str, Any]) -> Sent:
    """Shard to Copied; the adjoint is a reduce-scatter."""
    gathered, scattered = _gathering(comm, [out.numel() for out in pieces_of(arguments["outs"])])
    return (arguments["tensor"].numel(),), lambda x: (gathered(x), scattered), SHARD, COPIED


def _reduce_scatter(comm: Comm, arguments: Mapping[str, Any]) -> Sent:
    """Partial to Shard; the adjoint is an all-gather."""
    sizes = [part.numel() for part in pieces_of(arguments["parts"])]
    gathered, scattered = _gathering(comm, sizes)
    return (sum(sizes),), lambda x: (scattered(x), gathered), PARTIAL, SHARD


def _gathering(comm: Comm, sizes: Sequence[int]) -> tuple[Pullback, Pullback]:
    def gathered(x: Tensor) -> Tensor:
        y = x.new_empty(sum(sizes))
        comm.all_gather(x, torch.split(y, list(sizes)))
        return y

    def scattered(x: Tensor) -> Tensor:
        y = x.new_empty(sizes[comm.rank])
        comm.reduce_scatter(torch.split(x, list(sizes)), y)
        return y

    return gathered, scattered


def _messages(exchange: Exchange, comm: Comm, arguments: Mapping[str, Any]) -> Sent:
    """Shard to Shard: messages between ranks; the adjoint sends everything back."""
    sent, received = (_sizes(arguments[name]) for name in ("sends", "recvs"))

    def moved(x: Tensor, sizes: Mapping[int, int], others: Mapping[int, int]) -> Tensor:
        y = x.new_empty(sum(others.values()))
        sends, recvs = (
            dict(zip(held, torch.split(flat, list(held.values())), strict=True))
            for flat, held in ((x, sizes), (y, others))
        )
        exchange(comm, sends, recvs)
        return y

    return (sum(sent.values()),), lambda x: (moved(x, sent, received), lambda y: moved(y, received, sent)), SHARD, SHARD


def _sizes(messages: Pieces | Mapping[int, Tensor]) -> dict[int, int]:
    """The elements of the message from or to each rank."""
    by_rank = messages if isinstance(messages, Mapping) else dict(enumerate(pieces_of(messages)))
    return {rank: message.numel() for rank, message in by_rank.items()}


_COMM: Mapping[str, Callable[[Comm, Mapping[str, Any]], Sent]] = {
    "all_reduce": partial(_summed, lambda comm, x: comm.all_reduce(x)),
    "start_all_reduce": partial(_summed, lambda comm, x: comm.start_all_reduce(x).wait()),
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": partial(_messages, lambda comm, sends, recvs: comm.all_to_all([*sends.values()], [*recvs.values()])),
    "exchange": partial(_messages, lambda comm, sends, recvs: comm.exchange(sends, recvs)),
}
