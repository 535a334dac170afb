"""What a module holds in Python beside its tensors: the attributes of its parts, deep, and those of their classes and files.

with state_seen(module) as names: ...      names of what forward has changed; classes and files are as before
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from sys import modules as loaded
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from autopar.capture.tracing.row_pointers import Pointer

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_CONTAINERS = (dict, list, set, deque)
_OPAQUE = (type, ModuleType, FunctionType, BuiltinFunctionType, Tensor, *_PLAIN)
_OWN = frozenset(vars(nn.Module())) - {"training"}  # what torch keeps in every module


@dataclass(frozen=True, slots=True)
class Contents:
    """What an object holds by names, or a container of it by keys.

    owner      the object, class or file
    name       the attribute by which the container is reached; empty for the object's own attributes
    container  the dict, list, set or deque; None for the object's own attributes
    values     what it holds, as far as it is looked at
    """

    owner: Any
    name: str
    container: Any
    values: Mapping[Any, Any]


State = list[Contents]
Owned = dict[tuple[int, str], object]  # the owner by its id and the name of one of its attributes


def state_of(module: nn.Module) -> State:
    """All that is reached from the module's attributes, and the plain values of its parts' classes and files."""
    contents, seen = [], set()
    near: list[tuple[object, str, Any]] = [(None, "", module)]
    while near:
        owner, name, target = near.pop()
        if id(target) in seen or isinstance(target, _OPAQUE):
            continue
        seen.add(id(target))
        if isinstance(target, _CONTAINERS):
            contents.append(Contents(owner, name, target, _items(target)))
            near += [(owner, name, value) for value in _items(target).values()]
        if isinstance(target, tuple):
            near += [(owner, name, value) for value in target]
        if hasattr(target, "__dict__"):
            contents.append(Contents(target, "", None, _own(target)))
            near += [(target, key, value) for key, value in _own(target).items()]
            near += [(target, "", part) for part in target.children()] if isinstance(target, nn.Module) else []
    return [*contents, *_shared({type(part) for part in module.modules()})]


def _shared(kinds: Iterable[type]) -> Iterator[Contents]:
    """The plain values and containers of classes and of the files that define them."""
    classes = {cls for kind in kinds for cls in kind.__mro__ if not cls.__module__.startswith(("torch.", "builtins"))}
    files = {name: loaded[name] for name in {cls.__module__ for cls in classes} if name in loaded}
    for owner in (*classes, *files.values()):
        yield Contents(owner, "", None, _own(owner))
        for name, value in _own(owner).items():
            if isinstance(value, _CONTAINERS):
                yield Contents(owner, name, value, _items(value))


def _own(owner: Any) -> dict[str, Any]:  # noqa: ANN401 (an object, a class or a file)
    """The attributes of an object that are looked at."""
    if isinstance(owner, type | ModuleType):
        plain = (Tensor, *_PLAIN, *_CONTAINERS)
        return {key: value for key, value in vars(owner).items() if key[:2] != "__" and isinstance(value, plain)}
    out = _OWN if isinstance(owner, nn.Module) else frozenset()
    return {key: value for key, value in vars(owner).items() if key not in out}


def _items(container: Any) -> dict[Any, Any]:  # noqa: ANN401 (a container)
    if isinstance(container, dict):
        return dict(dict.items(container))
    return dict.fromkeys(container) if isinstance(container, set) else dict(enumerate(container))


def _now(held: Contents) -> dict[Any, Any]:
    return _own(held.owner) if held.container is None else _items(held.container)


def changed(before: State) -> Owned:
    """The attributes, and variables of files, that hold something else than they did, deep."""
    owned: Owned = {}
    for held in before:
        now = _now(held)
        for key in held.values.keys() | now.keys():
            if key not in now or key not in held.values or not _alike(held.values[key], now[key]):
                owned[id(held.owner), held.name or str(key)] = held.owner
    return owned


@contextlib.contextmanager
def state_seen(module: nn.Module) -> Iterator[set[str]]:
    """The set that it gives holds the names of what forward changes; torch.export puts some of it back when forward ends.

    Classes and files are as they were afterwards.
    """
    before, names = state_of(module), set[str]()

    def look(part: nn.Module, *_: object) -> None:
        if part is module:
            names.update(name for _, name in changed(before))

    handle = register_module_forward_hook(look)
    try:
        yield names
    finally:
        handle.remove()
        restore_shared(before)


def restore_shared(before: State) -> None:
    """Put back what classes and files held: they are no part of a module, and nobody else looks after them."""
    for held in before:
        if isinstance(held.owner, type | ModuleType):
            now = _now(held)
            if held.container is not None:
                _refill(held, now)
                continue
            for key in now.keys() - held.values.keys():
                delattr(held.owner, key)
            for key, value in held.values.items():
                if now.get(key) is not value:
                    setattr(held.owner, key, value)


def _refill(held: Contents, now: Mapping[Any, Any]) -> None:
    container, values = held.container, held.values
    if len(now) != len(values) or any(key not in now or now[key] is not value for key, value in values.items()):
        container.clear()
        (container.extend if isinstance(container, list | deque) else container.update)(
            values if isinstance(container, dict | set) else values.values()
        )


def _alike(value: Any, other: Any) -> bool:  # noqa: ANN401 (anything an attribute may hold)
    """Whether two values are the same to a reader that does not look into tensors."""
    if value is other or (isinstance(value, Tensor) and isinstance(other, Tensor)):
        return True
    if type(value) is not type(other):
        return False
    if isinstance(value, Pointer):
        return True
    if isinstance(value, _PLAIN):
        return bool(value == other)
    if isinstance(value, (tuple, *_CONTAINERS)):
        mine, theirs = (dict(enumerate(x)) if isinstance(x, tuple) else _items(x) for x in (value, other))
        return mine.keys() == theirs.keys() and all(_alike(mine[key], theirs[key]) for key in mine)
    return hasattr(value, "__dict__") and not isinstance(value, _OPAQUE) and _alike(vars(value), vars(other))
