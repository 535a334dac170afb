"""A user's module while its forward runs to be captured: what forward leaves behind in it is taken back.

Forward may count its calls, keep a tensor in an attribute, fill a cache or draw random numbers. While a model is
captured it runs several times, on tensors without memory; none of this may be seen afterwards, neither by the user nor by
the next run. What is kept: every attribute of every module and of the plain objects, lists, dicts and sets that they
hold, each tensor's gradient and flags, and the states of generators. The numbers in tensors are not copied: forward
only ever sees fake ones.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from sys import modules
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

_CONTAINERS = (OrderedDict, dict, list, set, deque)
_NUMPY = (np.random.Generator, np.random.RandomState)
_GENERATORS = (torch.Generator, random.Random, *_NUMPY)
_OPAQUE = (type, ModuleType, FunctionType, BuiltinFunctionType, FakeTensor)
Restore = Callable[[], object]


@contextlib.contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """While active forward may do as it likes; afterwards the module and all it holds are as they were."""
    restores = [restore for target in _reached(module) if (restore := _restore_of(target)) is not None]
    try:
        yield
    finally:
        for restore in restores:
            restore()


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """While active, a user's functions may draw random numbers and change how torch computes; afterwards all is as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)


@contextlib.contextmanager
def advanced(module: nn.Module, by: int) -> Iterator[bool]:
    """While active, generators of Python and numpy that a module, or a file that defines it, holds are so many numbers further.

    Gives whether there are any.
    """
    files = [
        vars(modules[name]).values() for name in {type(part).__module__ for part in module.modules()} if name in modules
    ]
    near = itertools.chain(_reached(module), *files)
    held: dict[int, Any] = {id(source): source for source in near if isinstance(source, (random.Random, *_NUMPY))}
    restores = [restore for source in held.values() if (restore := _restore_of(source)) is not None]
    try:
        for source in held.values():
            for _ in range(by):
                source.random()
        yield bool(held)
    finally:
        for restore in restores:
            restore()


def _reached(module: nn.Module) -> Iterator[object]:
    """Everything that can be changed and is reached from the module by attributes, items and elements, each once."""
    seen: dict[int, object] = {}
    near: list[object] = [module]
    while near:
        target = near.pop()
        if id(target) in seen or not _changeable(target):
            continue
        seen[id(target)] = target
        yield target
        near += _parts(target)


def _changeable(target: object) -> bool:
    if isinstance(target, (*_GENERATORS, *_CONTAINERS, tuple, MethodType)):
        return True
    return hasattr(target, "__dict__") and not isinstance(target, _OPAQUE)


def _parts(target: object) -> Iterable[object]:
    if isinstance(target, MethodType):
        return (target.__self__,)
    held: list[object] = [vars(target)] if hasattr(target, "__dict__") else []
    if isinstance(target, Tensor):
        return [*held, target.grad] if target.is_leaf else held
    if isinstance(target, tuple):
        return [*held, *target]
    return [*held, *_values(target)] if isinstance(target, _CONTAINERS) else held


def _values(container: Any) -> list[Any]:  # noqa: ANN401 (whatever a container holds)
    kind = _kind(container)
    return list(kind.values(container) if issubclass(kind, dict) else kind.__iter__(container))


def _kind(container: object) -> Any:  # noqa: ANN401 (a class)
    """The container's plain class: what a user's subclass does when it is read or written is nothing to go through."""
    kind = type(container)
    return kind if kind in _CONTAINERS else next(kind for kind in _CONTAINERS if isinstance(container, kind))


def _restore_of(target: Any) -> Restore | None:  # noqa: ANN401 (anything that can be changed)
    """What puts one object back into the state that it is in now."""
    if isinstance(target, Tensor):
        return _tensor(target)
    if isinstance(target, torch.Generator):
        return partial(target.set_state, target.get_state())
    if isinstance(target, random.Random):
        return partial(target.setstate, target.getstate())
    if isinstance(target, np.random.RandomState):
        return partial(target.set_state, target.get_state())
    if isinstance(target, np.random.Generator):
        return partial(setattr, target.bit_generator, "state", target.bit_generator.state)
    return _container(target) if isinstance(target, _CONTAINERS) else None


def _container(container: Any) -> Restore:  # noqa: ANN401 (a dict, list, set or deque of any kind)
    kind = _kind(container)
    keys, values = list(kind.__iter__(container)), _values(container)

    def restore() -> None:
        if not (_same(keys, list(kind.__iter__(container))) and _same(values, _values(container))):
            kind.clear(container)
            if issubclass(kind, dict):
                kind.update(container, zip(keys, values, strict=True))
            else:
                (kind.update if kind is set else kind.extend)(container, values)

    return restore


def _same(before: Sequence[object], after: Sequence[object]) -> bool:
    return len(before) == len(after) and all(a is b for a, b in zip(before, after, strict=True))


def _tensor(tensor: Tensor) -> Restore:
    flag, grad = tensor.requires_grad, tensor.grad if tensor.is_leaf else None

    def restore() -> None:
        if tensor.is_leaf and tensor.requires_grad is not flag:
            tensor.requires_grad_(flag)
        if tensor.is_leaf and tensor.grad is not grad:
            tensor.grad = grad

    return restore
