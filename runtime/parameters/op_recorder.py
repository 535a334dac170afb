"""The tensor operations of a function, recorded without performing them.

The function runs on fake tensors, which say that they lie on the CPU, have shapes and hold no values. Every operation
is noted in order (`autopar.runtime.parameters.op_replay.Record`). Views share their storage's identity, so what an operation reads
and writes is known by storage. Code that asks for a value (``.item()``) gets it from a replay of what the value
depends on.
"""

# ruff: noqa: ANN401  (operators, their arguments and what they return have no narrower type)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from autopar.runtime.parameters.op_replay import Record, Slot, replay

_aten = torch.ops.aten
_FILLS = {
    _aten.normal_, _aten.uniform_, _aten.fill_, _aten.zero_, _aten.copy_, _aten.random_, _aten.exponential_,
    _aten.cauchy_, _aten.log_normal_, _aten.geometric_, _aten.bernoulli_,
}  # fmt: skip
_EMPTY = {_aten.empty, _aten.empty_strided, _aten.empty_like, _aten.new_empty, _aten.new_empty_strided}


class CannotReplay(Exception):
    """Something was done to tensors that a record does not hold."""


class OpRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what runs inside it. It is entered inside a `FakeTensorMode` that allows real inputs.

    `seed` is what the default generator was seeded with. Nothing is drawn from it in earnest, but one number per random
    operation is, so that its state, seen at the next one, tells whether it has been set by hand in between.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.records: list[Record] = []
        self.first_state = Generator().manual_seed(seed).get_state()
        self.states_after: dict[int, Tensor] = {}  # of the default generator, after records that draw from it
        self._tensors: list[tuple[FakeTensor, Any]] = []  # with their storages; kept, so that identities stay theirs
        self._numbers: dict[int, int] = {}
        self._states: dict[Generator, Tensor] = {torch.default_generator: self.first_state}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Note the operation and let the fake tensors have it."""
        packed, keywords = tree_map(self._packed, (args, dict(kwargs or {})))
        try:
            result = func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            return self._look(func, packed, keywords)
        outs = tuple(self._slot(leaf) if isinstance(leaf, FakeTensor) else None for leaf in tree_leaves(result))
        writes = _written(func, args, kwargs or {})
        if any(outs) or writes:
            self.records.append(self._record(func, packed, keywords, outs, writes))
        return result

    def slot(self, tensor: Tensor) -> Slot:
        """The slot of a tensor made inside, as it is now. Raises CannotReplay."""
        number = self._numbers.get(id(tensor))
        if number is None:
            raise CannotReplay("a tensor was made by no recorded operation")
        storage = tensor.untyped_storage()._cdata
        if self._tensors[number][1]._cdata == storage:
            return Slot(number, storage)
        for other in reversed(range(len(self._tensors))):  # its data were exchanged, `parameter.data = other`
            known, place = self._tensors[other]
            if place._cdata == storage and _geometry(known) == _geometry(tensor):
                return Slot(other, storage)
        raise CannotReplay("a tensor's data were exchanged for others")

    def _record(
        self, func: Any, args: Any, kwargs: Any, outs: tuple[Slot | None, ...], writes: frozenset[int]
    ) -> Record:
        if func.overloadpacket in _EMPTY:  # made at its first use, when what it was made like may be gone
            like = self._tensors[next(filter(None, outs)).number][0]
            func, args = _aten.empty_strided.default, (tuple(like.shape), like.stride())
            kwargs = {"dtype": like.dtype, "device": like.device}
        reads = tuple(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Slot))
        fresh = any(slot is not None and all(slot.storage != read.storage for read in reads) for slot in outs)
        if fresh and not reads and any(argument.name == "dtype" for argument in func._schema.arguments):
            # the default may be another later
            kwargs["dtype"] = self._tensors[next(filter(None, outs)).number][0].dtype
        random = torch.Tag.nondeterministic_seeded in func.tags
        packet = func.overloadpacket
        filled = self._tensors[reads[0].number][0] if packet in _FILLS else None
        whole = filled is not None and _covers(filled) and all(read.storage not in writes for read in reads[1:])
        return Record(
            function=func,
            args=args,
            kwargs=kwargs,
            reads=reads,
            outs=outs,
            writes=writes,
            overwrites=next(iter(writes)) if whole else None,
            lazy=not writes and not random and (not fresh or packet in _EMPTY),
            random=random,
            resets=self._resets(args, kwargs) if random else (),
            scratch=None if filled is None else (tuple(filled.shape), filled.stride(), filled.dtype),
            own=random and any(isinstance(leaf, Generator) for leaf in tree_leaves((args, kwargs))),
        )

    def _packed(self, leaf: Any) -> Any:
        return self.slot(leaf) if isinstance(leaf, FakeTensor) else leaf

    def _slot(self, tensor: FakeTensor) -> Slot:
        if id(tensor) not in self._numbers:
            self._numbers[id(tensor)] = len(self._tensors)
            self._tensors.append((tensor, tensor.untyped_storage()))
        return self.slot(tensor)

    def _resets(self, args: Any, kwargs: Any) -> tuple[tuple[Generator, Tensor], ...]:
        used = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Generator)]
        changed = []
        with unset_fake_temporarily():
            for generator in used or [torch.default_generator]:
                state = generator.get_state()
                if generator not in self._states or not torch.equal(self._states[generator], state):
                    changed.append((generator, state))
                torch.empty(1).uniform_(generator=generator)
                self._states[generator] = generator.get_state()
        return tuple(changed)

    def _look(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operation returns that is no tensor."""
        slots = {leaf.number: leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Slot)}
        with unset_fake_temporarily():
            replayed = replay(self.records, tuple(slots.values()), self.first_state, self.states_after)
            values = {slot.number: value.clone() for slot, value in replayed}
            args, kwargs = tree_map(
                lambda leaf: values[leaf.number] if isinstance(leaf, Slot) else leaf, (args, kwargs)
            )
            return func(*args, **kwargs)


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> frozenset[int]:
    """The storages that an operation writes, by its schema. Raises CannotReplay where one was not made inside."""
    written: list[Tensor] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            written += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    if any(not isinstance(tensor, FakeTensor) for tensor in written):
        raise CannotReplay(f"{func} writes to a tensor that comes from outside")
    return frozenset(tensor.untyped_storage()._cdata for tensor in written)


def _covers(tensor: Tensor) -> bool:
    """Whether writing the tensor leaves nothing of what was in its storage."""
    return tensor.is_contiguous() and tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _geometry(tensor: Tensor) -> tuple[object, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.dtype
