"""Slices that begin at a pointer (`autopar.capture.tracing.row_pointers`), read and written by the numbers of their rows.

    self.queue[:, ptr : ptr + n] = y        self.queue.index_copy_(1, rows_from(ptr, n, size), y)
    y = self.queue[:, ptr : ptr + n]        y = self.queue.index_select(1, rows_from(ptr, n, size))
    y = self.queue.narrow(1, self.ptr, n)   the same
    self.ptr[0] = ptr                       the pointer as the tensor that it is

Such a slice has a length of its own where both its bounds are one pointer, moved by numbers that are known. What is read is
a copy, where Python's slice is a view: that either of the two is written while the other is read is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import autopar.ops.library.row_slices  # noqa: F401  (torch.ops.autopar.rows_from)
from autopar.capture.diagnostics.refusals import NotAllowed, NumberTaken
from autopar.capture.tracing.row_pointers import Pointer, is_whole
from autopar.capture.tracing.storage import memory, tensors_in, version

_VIEW_RULE = "what is read by x[ptr : ptr + n] is a copy, where torch has a view"
_VIEW_FIX = "write to the tensor itself, x[ptr : ptr + n] = y, and read before anything is written"
_WRITES = frozenset({"fill_", "copy_", "__setitem__"})
_ARITHMETIC = frozenset(
    {"add", "sub", "mul", "div", "rsub"} | {f"__{r}{op}__" for r in ("", "r") for op in ("add", "sub", "mul")}
)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows along `dim` of a view that an index with one pointer speaks of; a single one leaves no dim."""

    view: Tensor
    dim: int
    rows: Tensor
    single: bool


class Pointing(TorchFunctionMode):
    """While active, tensors can be read and written at pointers. Raises NumberTaken, or NotAllowed, for any other use of one."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: list[tuple[Tensor, Tensor]] = []  # what was read at a pointer, and its copy
        self._stale: list[Tensor] = []  # copies of what was written since

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Make the call, or what stands for it."""
        named, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name == "__getitem__" and (rows := _rows(*args)):
            return self._read(args[0], rows)
        if name == "narrow" and (rows := _narrowed(*args, **named)):
            return self._read(args[0], rows)
        if name == "__setitem__" and (rows := _rows(*args[:2])):
            return self._watched(args, lambda: _write(rows, args[2]))
        if func in (torch.tensor, torch.as_tensor) and isinstance(args[0], Pointer):
            return args[0].tensor.to(named.get("dtype") or torch.int64, copy=True)
        if name in _WRITES or (name in _ARITHMETIC and isinstance(args[0], Tensor) and args[0].is_floating_point()):
            args = tuple(arg.tensor if isinstance(arg, Pointer) else arg for arg in args)
        if name == "__get__" or not self._copies:
            return func(*args, **named)
        return self._watched((args, named), lambda: func(*args, **named))

    def _read(self, x: Tensor, at: _Rows) -> Tensor:
        copy = at.view.index_select(at.dim, at.rows)
        self._copies.append((x, copy))
        return copy.squeeze(at.dim) if at.single else copy

    def _watched(self, operands: object, call: Callable[[], Any]) -> Any:  # noqa: ANN401
        """What the call gives. Raises NotAllowed where it reads or writes what would be a view."""
        tensors = tensors_in(operands)
        if {*map(memory, tensors)} & {*map(memory, self._stale)}:
            raise NotAllowed("a slice at a pointer is read after the tensor was written", _VIEW_RULE, _VIEW_FIX)
        before = [version(tensor) for tensor in tensors]
        result = call()
        written = {memory(tensor) for tensor, old in zip(tensors, before, strict=True) if old != version(tensor)}
        if any(memory(copy) in written for _, copy in self._copies):
            raise NotAllowed("a slice at a pointer is written to in place", _VIEW_RULE, _VIEW_FIX)
        self._stale += [copy for x, copy in self._copies if memory(x) in written]
        return result


def _rows(x: Tensor, index: Any) -> _Rows | None:  # noqa: ANN401 (as between square brackets)
    """What an index with a pointer speaks of; None for one without. Raises NumberTaken for one that is more than that."""
    items = list(index) if isinstance(index, tuple) else [index]
    pointers = [end for item in items for end in _ends(item) if isinstance(end, Pointer)]
    if not pointers:
        return None
    (place, *others) = [i for i, item in enumerate(items) if any(isinstance(end, Pointer) for end in _ends(item))]
    if others or not all(
        entry is None or entry is ... or is_whole(entry) or isinstance(entry, slice | Pointer) for entry in items
    ):
        raise NumberTaken(pointers[0].said)
    start, length = (items[place], 1) if isinstance(items[place], Pointer) else _length(items[place], pointers[0])
    single = isinstance(items[place], Pointer)
    items[place] = slice(None)
    counted = sum(entry is not None and entry is not ... for entry in items)
    before = [
        every for entry in items[:place] for every in ([slice(None)] * (x.dim() - counted) if entry is ... else [entry])
    ]
    dim = sum(entry is None or isinstance(entry, slice) for entry in before)
    view = x if all(entry is ... or entry == slice(None) for entry in items) else x[tuple(items)]
    return _Rows(view, dim, torch.ops.autopar.rows_from(start.tensor, length, view.shape[dim]), single)


def _narrowed(x: Tensor, dim: int, start: Any, length: Any) -> _Rows | None:  # noqa: ANN401
    start = start.item() if isinstance(start, Tensor) else start
    if not isinstance(start, Pointer):
        return None
    return _Rows(x, dim, torch.ops.autopar.rows_from(start.tensor, length, x.shape[dim]), False)


def _ends(item: object) -> tuple[object, ...]:
    return (item.start, item.stop, item.step) if isinstance(item, slice) else (item,)


def _length(item: slice, pointer: Pointer) -> tuple[Pointer, Any]:
    """Where a slice begins, and how long it is: both its bounds are one pointer, moved."""
    start, stop = item.start, item.stop
    ends = isinstance(start, Pointer) and isinstance(stop, Pointer) and start.base is stop.base
    if not ends or item.step not in (None, 1) or not stop.shift - start.shift > 0:
        raise NumberTaken(pointer.said)
    return start, stop.shift - start.shift


def _write(at: _Rows, value: Any) -> None:  # noqa: ANN401 (a tensor, a number or a pointer)
    value = value.tensor if isinstance(value, Pointer) else value
    if not isinstance(value, Tensor):
        at.view.index_fill_(at.dim, at.rows, value)
        return
    shape = list(at.view.shape)
    shape[at.dim : at.dim + 1] = [] if at.single else [at.rows.shape[0]]
    while value.dim() > len(shape) and value.shape[0] == 1:
        value = value[0]
    source = value.to(at.view.dtype).expand(shape)
    at.view.index_copy_(at.dim, at.rows, source.unsqueeze(at.dim) if at.single else source)
