"""Whole numbers that forward takes out of tensors to say where rows begin: the pointer of a queue.

    ptr = int(self.ptr)                     a Pointer: a number that is not known, and stays a tensor
    self.queue[:, ptr : ptr + n] = y        what a pointer may do in an index: `autopar.capture.tracing.pointer_slices`
    self.ptr[0] = (ptr + n) % size          arithmetic of tensors

Whatever else looks at a pointer, an `if`, a range or a shape, is refused as a look at a tensor's numbers is.
"""

from __future__ import annotations

import ast
import contextlib
import linecache
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from autopar.capture.diagnostics.refusals import NumberTaken
from autopar.capture.diagnostics.source_lines import OURS, TORCH


class PointerWanted(NumberTaken):
    """``int(tensor)``, where Python itself makes a number: it may be a pointer if this file's `int` leaves it one."""

    def __init__(self, said: str, scope: dict[str, Any]) -> None:
        super().__init__(said)
        self.scope = scope


@dataclass(frozen=True, slots=True, eq=False)
class Pointer:
    """A whole number in a tensor, `shift` further; `said` is what is refused of it."""

    base: Tensor
    shift: Any  # an int, or a multiple of the number of rows
    said: str

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Whoever asks is told that it is an int, as it would be in a step."""
        return int

    @property
    def tensor(self) -> Tensor:
        """The number as a tensor without dims."""
        return self.base + self.shift if not isinstance(self.shift, int) or self.shift else self.base

    def _moved(self, by: Any) -> Pointer:  # noqa: ANN401 (as `shift` is)
        return Pointer(self.base, self.shift + by, self.said)

    def __add__(self, other: Any) -> Any:  # noqa: ANN401 (a pointer, or a tensor)
        return self._moved(other) if is_whole(other) else self._by(torch.add, other)

    def __sub__(self, other: Any) -> Any:  # noqa: ANN401
        if isinstance(other, Pointer) and other.base is self.base:
            return self.shift - other.shift
        return self._moved(-other) if is_whole(other) else self._by(torch.sub, other)

    def __mul__(self, other: object) -> Any:  # noqa: ANN401
        return self._by(torch.mul, other)

    def __rsub__(self, other: object) -> Any:  # noqa: ANN401
        return self._by(lambda mine, value: value - mine, other)

    def __mod__(self, other: object) -> Any:  # noqa: ANN401
        return self._by(torch.remainder, other, tensors=False)

    def __floordiv__(self, other: object) -> Any:  # noqa: ANN401
        return self._by(torch.floor_divide, other, tensors=False)

    def __neg__(self) -> Pointer:
        return Pointer(-self.tensor, 0, self.said)

    __radd__, __rmul__ = __add__, __mul__

    def _by(self, function: Callable[[Tensor, Any], Tensor], other: object, tensors: bool = True) -> Any:  # noqa: ANN401
        """Arithmetic with a whole number, or with a floating-point tensor, as with a number."""
        if isinstance(other, Pointer) or is_whole(other):
            known = other.tensor if isinstance(other, Pointer) else other
            return Pointer(function(self.tensor, known), 0, self.said)
        if tensors and isinstance(other, Tensor) and other.is_floating_point():
            return function(self.tensor, other)
        raise NumberTaken(self.said)

    def __repr__(self) -> str:
        return "a number in a tensor"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Let torch's own parser hand calls with pointers to `Pointing`. Raises NumberTaken where it does not take them."""
        raise NumberTaken(next(leaf.said for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Pointer)))


def _look(self: Pointer, *_: object) -> Any:  # noqa: ANN401 (nothing: it raises)
    raise NumberTaken(self.said)


_LOOKS = (
    "bool int index float complex hash eq ne lt le gt ge truediv rtruediv pow rpow divmod rdivmod rmod rfloordiv "
    "and rand or ror xor rxor lshift rlshift rshift rrshift abs invert round trunc floor ceil format str"
)
for _name in _LOOKS.split():
    setattr(Pointer, f"__{_name}__", _look)


def is_whole(value: Any) -> bool:  # noqa: ANN401 (anything)
    """Whether a value is a whole number that is known, or follows the number of rows."""
    return isinstance(value, int | torch.SymInt) and not isinstance(value, Pointer)


def pointer(name: str, tensor: Tensor, said: str) -> Pointer | None:
    """What ``tensor.item()`` or ``int(tensor)`` gives of a number that is not known; None where it may not be given.

    Raises PointerWanted where Python would make a number of it.
    """
    kind = tensor.dtype
    if tensor.numel() != 1 or kind == torch.bool or kind.is_floating_point or kind.is_complex:
        return None
    if name == "item":
        return Pointer(tensor.detach().reshape(()).to(torch.int64, copy=True), 0, said)  # as it is now
    scope = _scope() if name == "__int__" else None
    if scope is not None:
        raise PointerWanted(said, scope)
    return None


def _scope() -> dict[str, Any] | None:
    """The variables of the file whose line says ``int(...)``, if that file does nothing with `int` but call and ask for it."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith((TORCH, OURS)):
        frame = frame.f_back
    if frame is None or "int" in frame.f_globals or not _plain("".join(linecache.getlines(frame.f_code.co_filename))):
        return None
    return frame.f_globals


def _plain(text: str) -> bool:
    """Whether a file calls `int`, asks ``isinstance(x, int)``, and says it in annotations, and nothing else.

    >>> [_plain(text) for text in ("y: int = int(x)", "isinstance(x, (int, float))", "map(int, x)", "type(x) is int")]
    [True, True, False, False]
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    fine: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            asks = isinstance(node.func, ast.Name) and node.func.id == "isinstance"
            fine |= {node.func, *(part for kind in node.args[1:] for part in ast.walk(kind) if asks)}
        noted = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        fine |= {part for note in noted if note is not None for part in ast.walk(note)}
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "int"]
    return bool(names) and all(name in fine and isinstance(name.ctx, ast.Load) for name in names)


class _AsksForInt(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, int)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (as int takes them)
        first = args[0] if len(args) == 1 and not kwargs else None
        if isinstance(first, Tensor) and first.numel() == 1:
            first = first.item()
            return first if isinstance(first, Pointer) else int(first)
        return first if isinstance(first, Pointer) else int(*args, **kwargs)


class _Int(metaclass=_AsksForInt):
    """``int`` of a file, that leaves pointers what they are."""


@contextlib.contextmanager
def pointing(scope: dict[str, Any]) -> Iterator[None]:
    """While active, ``int(...)`` in the file with these variables may give a pointer."""
    scope["int"] = _Int
    try:
        yield
    finally:
        del scope["int"]


def pointer_failure(error: BaseException | None) -> PointerWanted | None:
    """What a capture failed for, if it was ``int(tensor)``."""
    while error is not None and not isinstance(error, PointerWanted):
        error = error.__cause__
    return error
