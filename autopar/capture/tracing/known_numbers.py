"""Numbers that forward takes out of tensors which depend on nothing: they are part of the program, as literals are.

    torch.arange(2, x.dim()).tolist()      the same list in every step
    x.sum().item()                         another number in every step: refused, at this very line

While forward is traced its tensors are fake, without numbers. Beside every small one that is made of literals and of
tensors in plain attributes alone, this mode computes the numbers too, and answers those who ask for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from autopar.capture.diagnostics.refusals import NumberTaken, tensor_text
from autopar.capture.tracing.row_pointers import pointer
from autopar.capture.tracing.storage import memory, tensors_in, version

_MOST = 1 << 22  # elements of a tensor whose numbers are kept: masks of attention are as large
_MOST_BYTES = 1 << 28  # of all of them
_READS = frozenset(
    {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__"}
    | {"equal", "allclose", "is_nonzero"}
)
_UNSET = ("empty", "new_empty")
_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_PROPERTIES: Any = Tensor
_FLAGS = (_PROPERTIES.requires_grad.__set__, _PROPERTIES.grad.__set__)  # set without a write to any memory
UNKNOWN = "its value is not known"


class KnownNumbers(TorchFunctionMode):
    """While active, small tensors that depend on nothing can be read. Raises NumberTaken where another one is."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[int, tuple[Tensor, Tensor]] = {}  # by identity: the fake, kept alive, and its numbers
        self._places: dict[int, set[int]] = {}  # by memory: the identities of those that were met there
        self._bytes = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Make the call, beside it the same one with numbers."""
        named, name = dict(kwargs or {}), getattr(func, "__name__", "").split(".")[0]
        if name == "__get__" and id(args[0]) not in self._numbers:  # most of all calls
            return func(*args, **named)
        if name in _READS:
            return self._read(name, func, args, named)
        leaves = tree_leaves((args, named))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        versions = [version(tensor) for tensor in tensors]
        result = func(*args, **named)
        symbols = any(isinstance(leaf, _SYMBOLS) for leaf in leaves)
        known = not symbols and all(self._of(tensor) is not None for tensor in tensors)
        if name == "__set__" or versions != [version(tensor) for tensor in tensors]:  # something was written
            own = any(
                id(tensor) not in self._numbers for tensor in tensors
            )  # the user's, which are to stay as they are
            if not known or own or name == "__set__" or not self._compute(func, args, named, result):
                self._forget(tensors, moved=not _in_place(name, func))
        elif known and not name.startswith(_UNSET):
            self._compute(func, args, named, result)
        return result

    def _of(self, tensor: Tensor) -> Tensor | None:
        """The numbers in a tensor, if they are known: those of a user's plain attribute are there."""
        if id(tensor) in self._numbers:
            return self._numbers[id(tensor)][1]
        own = type(tensor) is Tensor and not tensor.is_meta and not tensor.requires_grad
        return tensor if own and tensor.numel() <= _MOST else None

    def _read(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:  # noqa: ANN401
        tensors = tensors_in((args, named))
        changing = [tensor for tensor in tensors if self._of(tensor) is None]
        if not changing:
            with _disable_current_modes():
                return func(*tree_map(self._numbered, args), **tree_map(self._numbered, named))
        if type(changing[0]) is Tensor and changing[0].is_meta:
            raise NumberTaken(f"{name}() of a tensor on the meta device: {UNKNOWN}")
        if (number := pointer(name, changing[0], _said(name, changing[0]))) is not None:
            return number
        try:
            result = func(*args, **named)
        except Exception as error:  # one of several kinds, by the way in which it is read
            raise NumberTaken(_said(name, changing[0])) from error
        if any(free_unbacked_symbols(leaf) for leaf in tree_leaves(result) if isinstance(leaf, _SYMBOLS)):
            raise NumberTaken(_said(name, changing[0]))
        return result

    def _compute(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any], result: object) -> bool:
        """Whether the same call could be made with numbers."""
        fakes = tensors_in(result)
        if any(not isinstance(fake, FakeTensor) or fake.numel() > _MOST for fake in fakes) or self._bytes > _MOST_BYTES:
            return False
        with _disable_current_modes():
            state = torch.default_generator.get_state()
            try:
                numbers = func(*tree_map(self._numbered, args), **tree_map(self._numbered, named))
            except Exception:  # then they are not known
                return False
            if not torch.equal(state, torch.default_generator.get_state()):  # and neither are random ones
                torch.default_generator.set_state(state)
                return False
            computed = tensors_in(numbers)
            alike = [(x.shape, x.dtype) for x in computed] == [(x.shape, x.dtype) for x in fakes]
            if alike:
                self._numbers |= {id(fake): (fake, tensor) for fake, tensor in zip(fakes, computed, strict=True)}
                for fake in fakes:
                    self._places.setdefault(memory(fake), set()).add(id(fake))
                self._bytes += sum(tensor.nbytes for tensor in computed)
            return alike

    def _numbered(self, leaf: Any) -> Any:  # noqa: ANN401 (any argument)
        return self._of(leaf) if isinstance(leaf, Tensor) else leaf

    def _forget(self, written: Sequence[Tensor], *, moved: bool) -> None:
        """Something unknown was written to one of these: whatever shares its memory is unknown from now on.

        That which `moved` may share another memory now than where it was met.
        """
        places = set(map(memory, written))
        if moved:
            self._places = {}
            for key, (fake, _) in self._numbers.items():
                self._places.setdefault(memory(fake), set()).add(key)
        for place in places:
            for key in self._places.pop(place, ()):
                self._numbers.pop(key, None)


def _in_place(name: str, func: Callable[..., Any]) -> bool:
    """Whether a call leaves every tensor the memory that it has."""
    return func in _FLAGS or name == "__setitem__" or (name.endswith("_") and name not in ("set_", "__set__"))


def _said(name: str, tensor: Tensor) -> str:
    return f"{name}() of a tensor that is no constant: {tensor_text(tensor)}"
