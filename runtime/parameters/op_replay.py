"""Recorded tensor operations, performed in order, and only as far as somebody wants their results.

`replay` performs the operations with torch's own kernels, so that values come out as they would have without
recording, bit for bit, but

    an operation runs only if a wanted tensor depends on it      found going backwards, storage by storage
    values that are overwritten unread are never computed        a layer's own initialisation before the model's
    memory is taken at the first use and given back after the last, so that wanted tensors live one after another
    random numbers that nobody wants are still drawn             into scratch memory, since the next ones depend on them
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves, tree_map

RANDOM_STATE = threading.RLock()  # torch has one default generator for all threads, and a simulated rank is a thread


@dataclass(frozen=True, slots=True)
class Slot:
    """A recorded tensor, standing in arguments for its value: its number, and the storage it lies in."""

    number: int
    storage: int


@dataclass(frozen=True, slots=True)
class Record:
    """One operation: its arguments with slots for tensors, and the tensors it yields (None for what is no tensor).

    `writes` are the storages it changes, `overwrites` the one of them of which it leaves nothing and reads nothing,
    `lazy` means that it only makes a view, or memory without values, and can wait until that is used. `resets` are
    states that generators were set to by hand before a random operation, `scratch` (shape, strides, dtype) of what it
    fills in place, and `own` says that it draws from a generator of its own, not the default one.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reads: tuple[Slot, ...]
    outs: tuple[Slot | None, ...]
    writes: frozenset[int]
    overwrites: int | None
    lazy: bool
    random: bool
    resets: tuple[tuple[Generator, Tensor], ...] = ()
    scratch: tuple[tuple[int, ...], tuple[int, ...], torch.dtype] | None = None
    own: bool = False

    @property
    def makes(self) -> set[int]:
        """Numbers of the tensors that did not exist before."""
        return {slot.number for slot in self.outs if slot} - {slot.number for slot in self.reads}

    @property
    def storages(self) -> set[int]:
        """Storages of all tensors that it touches."""
        return {slot.storage for slot in (*self.reads, *self.outs) if slot}

    @property
    def drawable(self) -> bool:
        """Whether its random numbers can be drawn without its arguments' values."""
        return self.random and not (self.reads[1:] if self.scratch else self.reads)


def replay(
    records: Sequence[Record], wanted: Sequence[Slot], state: Tensor, after: dict[int, Tensor]
) -> Iterator[tuple[Slot, Tensor]]:
    """The values of the wanted tensors, each as soon as no operation that matters changes it any more.

    `state` is the state of the default generator at the beginning; the generator itself is left as it is. `after` notes
    its state after random operations, by their place: numbers that nobody wants are drawn once, and a function that looks
    at values again and again is replayed in a time that does not grow with the square of its length. A value is to be used
    before the next one is asked for. The same storage may be wanted under several slots; they come one after another.
    """
    run = _Replay(records, state)
    needed = _needed(records, wanted)
    closing = _closing(records, needed)
    drawn = max((i for i, record in enumerate(records) if needed[i] and record.random), default=-1)
    for i, record in enumerate(records):
        if needed[i] and not record.lazy:
            run.perform(record)
        elif record.random and i <= drawn:
            run.draw(record, after.get(i))
        if record.random and i <= drawn and not record.own:
            after[i] = run.state
        for storage in closing.get(i, ()):
            for slot in wanted:
                if slot.storage == storage:
                    yield slot, run.value(slot)
            run.forget(storage)


def _needed(records: Sequence[Record], wanted: Sequence[Slot]) -> list[bool]:
    """Which operations have to be performed. `numbers` are tensors that are used later, `live` storages read later."""
    numbers = {slot.number for slot in wanted}
    live = {slot.storage for slot in wanted}
    needed = [False] * len(records)
    for i in reversed(range(len(records))):
        record = records[i]
        undrawable = record.random and not record.drawable
        if record.writes & live or record.makes & numbers or undrawable:
            needed[i] = True
            numbers.update(slot.number for slot in record.reads)
            live.discard(-1 if record.overwrites is None else record.overwrites)
            if not record.lazy:
                live.update(slot.storage for slot in record.reads if slot.storage != record.overwrites)
    return needed


def _closing(records: Sequence[Record], needed: Sequence[bool]) -> dict[int, list[int]]:
    """Which storages are used for the last time by each needed operation."""
    last: dict[int, int] = {}
    for i, record in enumerate(records):
        if needed[i]:
            last.update(dict.fromkeys(sorted(record.storages), i))
    closing: dict[int, list[int]] = {}
    for storage, i in last.items():
        closing.setdefault(i, []).append(storage)
    return closing


class _Replay:
    """Values computed so far, and the state of the default generator as it would be."""

    def __init__(self, records: Sequence[Record], state: Tensor) -> None:
        self._values: dict[int, Tensor] = {}
        self._in_storage: dict[int, list[int]] = {}
        self._makers = {number: record for record in records if record.lazy for number in record.makes}
        self.state = state

    def value(self, slot: Slot) -> Tensor:
        if slot.number not in self._values:
            self.perform(self._makers[slot.number])
        return self._values[slot.number]

    def perform(self, record: Record) -> None:
        args, kwargs = tree_map(self._leaf, (record.args, dict(record.kwargs)))
        result = self._with_state(record, args, kwargs) if record.random else record.function(*args, **kwargs)
        for slot, leaf in zip(record.outs, tree_leaves(result), strict=True):
            if slot is not None:
                self._values[slot.number] = leaf
                self._in_storage.setdefault(slot.storage, []).append(slot.number)

    def draw(self, record: Record, after: Tensor | None) -> None:
        """Take the random numbers of an operation whose result nobody wants, unless the state after it is known."""
        if after is not None:
            self.state = after
            return
        args = record.args
        if record.scratch is not None:
            shape, strides, dtype = record.scratch
            args = (torch.empty_strided(shape, strides, dtype=dtype), *args[1:])
        self._with_state(record, args, record.kwargs)

    def forget(self, storage: int) -> None:
        for number in self._in_storage.pop(storage, ()):
            self._values.pop(number, None)

    def _leaf(self, leaf: Any) -> Any:  # noqa: ANN401 (any argument)
        if isinstance(leaf, Slot):
            return self.value(leaf)
        return leaf.clone() if isinstance(leaf, Tensor) else leaf

    def _with_state(self, record: Record, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        default = torch.default_generator
        with RANDOM_STATE:
            before = default.get_state()
            default.set_state(self.state)
            for generator, state in record.resets:
                generator.set_state(state)
            try:
                return record.function(*args, **kwargs)
            finally:
                self.state = default.get_state()
                default.set_state(before)
