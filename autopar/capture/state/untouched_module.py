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
    restores = [restore for one in _reached(module) if (restore := _restore_of(one)) is not None]
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
    held: dict[int, Any] = {id(one): one for one in near if isinstance(one, (random.Random, *_NUMPY))}
    restores = [restore for one in held.values() if (restore := _restore_of(one)) is not None]
    try:
        for one in held.values():
            for _ in range(by):
                one.random()
        yield bool(held)
    finally:
        for restore in restores:
            restore()


def _reached(module: nn.Module) -> Iterator[object]:
    """Everything that can be changed and is reached from the module by attributes, items and elements, each once."""
    seen: dict[int, object] = {}
    near: list[object] = [module]
    while near:
        one = near.pop()
        if id(one) in seen or not _changeable(one):
            continue
        seen[id(one)] = one
        yield one
        near += _parts(one)


def _changeable(one: object) -> bool:
    if isinstance(one, (*_GENERATORS, *_CONTAINERS, tuple, MethodType)):
        return True
    return hasattr(one, "__dict__") and not isinstance(one, _OPAQUE)


def _parts(one: object) -> Iterable[object]:
    if isinstance(one, MethodType):
        return (one.__self__,)
    held: list[object] = [vars(one)] if hasattr(one, "__dict__") else []
    if isinstance(one, Tensor):
        return [*held, one.grad] if one.is_leaf else held
    if isinstance(one, tuple):
        return [*held, *one]
    return [*held, *_values(one)] if isinstance(one, _CONTAINERS) else held


def _values(one: Any) -> list[Any]:  # noqa: ANN401 (whatever a container holds)
    kind = _kind(one)
    return list(kind.values(one) if issubclass(kind, dict) else kind.__iter__(one))


def _kind(one: object) -> Any:  # noqa: ANN401 (a class)
    """The container's plain class: what a user's subclass does when it is read or written is nothing to go through."""
    return next(kind for kind in _CONTAINERS if isinstance(one, kind))


def _restore_of(one: Any) -> Restore | None:  # noqa: ANN401 (anything that can be changed)
    """What puts one object back into the state that it is in now."""
    if isinstance(one, Tensor):
        return _tensor(one)
    if isinstance(one, torch.Generator):
        return partial(one.set_state, one.get_state())
    if isinstance(one, random.Random):
        return partial(one.setstate, one.getstate())
    if isinstance(one, np.random.RandomState):
        return partial(one.set_state, one.get_state())
    if isinstance(one, np.random.Generator):
        return partial(setattr, one.bit_generator, "state", one.bit_generator.state)
    return _container(one) if isinstance(one, _CONTAINERS) else None


def _container(one: Any) -> Restore:  # noqa: ANN401 (a dict, list, set or deque of any kind)
    kind = _kind(one)
    keys, values = list(kind.__iter__(one)), _values(one)

    def restore() -> None:
        if not (_same(keys, list(kind.__iter__(one))) and _same(values, _values(one))):
            kind.clear(one)
            if issubclass(kind, dict):
                kind.update(one, zip(keys, values, strict=True))
            else:
                (kind.update if kind is set else kind.extend)(one, values)

    return restore


def _same(before: Sequence[object], after: Sequence[object]) -> bool:
    return len(before) == len(after) and all(a is b for a, b in zip(before, after, strict=True))


def _tensor(one: Tensor) -> Restore:
    flag, grad = one.requires_grad, one.grad if one.is_leaf else None

    def restore() -> None:
        if one.is_leaf and one.requires_grad is not flag:
            one.requires_grad_(flag)
        if one.is_leaf and one.grad is not grad:
            one.grad = grad

    return restore
