"""Bytes of tensors that this rank holds while something runs, from one allocation to the next, and the most of them.

    with memory_use() as used:
        step()
    used.peak, used.timeline

Every allocation of torch's CPU allocator counts, those inside operators too, as torch's profiler reports them. What
was held before is counted by storage: tensors that Python can reach, their gradients, and this rank's part of memory that
the ranks of a node share; what of it is freed meanwhile is noticed when it is. Memory that is not torch's (the
interpreter's, MPI's, oneDNN's scratch) is not counted. Costs nothing while nobody measures; while somebody does,
operators take some microseconds longer.
"""

from __future__ import annotations

import gc
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import profiler


@dataclass(frozen=True, slots=True)
class Moment:
    """From `seconds` after the beginning on, `nbytes` are held; `during` is the outermost operator that runs then.

    In backward that is the name of the function of autograd, and "" where no operator runs.
    """

    seconds: float
    nbytes: int
    during: str


class MemoryUse:
    """What `memory_use` found out; complete once its block is left.

    before    bytes held at the beginning
    timeline  moments at which the held bytes changed, in order
    peak      the most bytes held at once, and `peak_during` the operator that ran then
    """

    def __init__(self, before: int) -> None:
        self.before = before
        self.timeline: tuple[Moment, ...] = ()

    @property
    def highest(self) -> Moment:
        """The first moment at which most bytes are held."""
        return max(self.timeline, key=lambda moment: moment.nbytes, default=Moment(0.0, self.before, ""))

    @property
    def peak(self) -> int:
        """The most bytes held at once."""
        return max(self.before, self.highest.nbytes)

    @property
    def peak_during(self) -> str:
        """The operator that runs at the peak, "" where it is the beginning."""
        return self.highest.during if self.highest.nbytes > self.before else ""


@dataclass(slots=True)
class _Freed:
    """Storages of before that are gone: when, in ns since the epoch, and how large."""

    listed: list[tuple[int, int]] = field(default_factory=list)
    open: bool = True

    def note(self, nbytes: int) -> None:
        if self.open:
            self.listed.append((time.time_ns(), nbytes))


@contextmanager
def memory_use() -> Iterator[MemoryUse]:
    """Follow the bytes of tensors that this process holds through a block; the result is complete when it ends.

    Not for ranks that are threads of one process, and not inside another use of torch's profiler.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library writes to stderr else
    freed = _Freed()
    used = MemoryUse(_standing(freed))
    measured = profiler.profile(profile_memory=True)
    begun = time.time_ns()
    try:
        with measured:
            yield used
    finally:
        freed.open = False
    used.timeline = _timeline(measured.kineto_results.events(), freed.listed, begun, used.before)  # type: ignore[union-attr]


def _standing(freed: _Freed) -> int:
    """Bytes of the storages that are held now; `freed` is told of those that are freed later."""
    frozen = gc.get_freeze_count() > 0
    gc.unfreeze()  # what is frozen would not be listed
    gc.collect()
    objects = gc.get_objects()
    if frozen:
        gc.freeze()
    parts, foreign = _windows(objects)
    seen: dict[int, int] = {}
    for x in objects:
        if issubclass(type(x), Tensor):  # without touching what acts on being looked at
            for tensor in (x, x.grad if x.is_leaf else None):
                _count(tensor, foreign, seen, freed)
    return sum(seen.values()) + parts


def _count(tensor: Tensor | None, foreign: Callable[[int], bool], seen: dict[int, int], freed: _Freed) -> None:
    if tensor is None or tensor.device.type != "cpu" or tensor.layout != torch.strided or _made_up(tensor):
        return
    storage = tensor.untyped_storage()
    place, size = storage.data_ptr(), storage.nbytes()
    if size and place not in seen and not foreign(place):
        seen[place] = size
        weakref.finalize(storage, freed.note, size).atexit = False


def _made_up(tensor: Tensor) -> bool:
    """Whether it only pretends to have memory, as torch's fake tensors do."""
    return type(tensor) not in (Tensor, torch.nn.Parameter)


def _windows(objects: list[Any]) -> tuple[int, Callable[[int], bool]]:
    """Bytes of this rank's parts of shared memory, and whether an address lies in shared memory of any rank."""
    node = sys.modules.get("autopar.runtime.transport.shared_memory")  # MPI is not started for asking
    shared = [x for x in objects if node is not None and type(x) is node.SharedMemory and x.memory]
    ranges = [(part.address, part.address + part.nbytes) for x in shared for part in x.memory]
    return sum(x.memory[0].nbytes for x in shared), partial(_within, ranges)


def _within(ranges: list[tuple[int, int]], address: int) -> bool:
    return any(start <= address < stop for start, stop in ranges)


def _timeline(events: list[Any], freed: list[tuple[int, int]], begun: int, before: int) -> tuple[Moment, ...]:
    """The moments, from the profiler's events: allocations, and spans of operators that may lie in one another."""
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    changes = sorted([*changes, *((when, -size) for when, size in freed)])
    spans = sorted((event.start_ns(), -event.end_ns(), event.name()) for event in events if event.name() != "[memory]")
    moments, held, at, name, until = [], before, 0, "", 0
    for when, size in changes:
        while at < len(spans) and spans[at][0] <= when:
            start, stop, called = spans[at]
            if start >= until:
                name, until = called, -stop
            at += 1
        held += size
        moments.append(Moment((when - begun) * 1e-9, held, _plain(name) if when < until else ""))
    return tuple(moments)


def _plain(name: str) -> str:
    """``AddmmBackward0`` of the engine's ``autograd::engine::evaluate_function: AddmmBackward0``."""
    return name.rsplit(": ", 1)[-1].removeprefix("aten::").removeprefix("torch::autograd::")
