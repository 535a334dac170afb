"""`torch.autograd.Function`s of the user's as operators: forward and the backward that belongs to it are one call.

Each function, with each set of kinds of arguments, is an operator of torch's (``torch.ops.scorer.StraightThrough``) while
a model is captured and its letters are found; a program calls ``StraightThrough.apply`` itself. Nothing is taken for
granted of a backward: it need not be linear in the gradient, so that addends of a gradient may not pass through it one by one.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._library.autograd import Info, make_autograd_impl
from torch.autograd import Function

from autopar.ops.record.overloads import overload_of
from autopar.ops.record.printing import literal

_MODEL = re.compile(r"_model_(\w+)_[0-9a-f]{12}")  # what `autopar.model_file` calls the module of a model file
_TYPES: tuple[tuple[type | tuple[type, ...], str, str], ...] = (  # of an argument: in a schema, in an operator's name
    (torch.Tensor, "Tensor", "t"),
    (bool, "bool", "b"),
    ((int, torch.SymInt), "SymInt", "i"),
    (float, "float", "f"),
    (str, "str", "s"),
    (torch.dtype, "ScalarType", "d"),
    (type(None), "Tensor?", "n"),
)
_REAL = (torch.Tensor, torch.nn.Parameter)


@dataclass(frozen=True, slots=True)
class Kept:
    """A function that stays one call.

    target    its operator, ``"scorer.StraightThrough.t"``
    module    where it is found: the name of a module, of a model file its stem
    name      its qualified name there, ``"StraightThrough"``
    printed   what programs call it
    lists     the positions of arguments that are lists; other sequences are tuples
    dicts     the positions of arguments that are dicts of plain values: the operator takes them as they are spelled
    tupled    it returns a tuple
    """

    target: str
    module: str
    name: str
    printed: str
    lists: frozenset[int]
    dicts: frozenset[int]
    tupled: bool
    function: type[Function]


_KEPT: dict[str, Kept] = {}  # by target
_LIBRARIES: dict[str, Any] = {}  # torch's, by name space


def kept(target: str) -> Kept | None:
    """The function of a target, where it is one."""
    return _KEPT.get(target)


def functions_among(targets: Iterable[str]) -> list[Kept]:
    """The functions among these targets, each once, by their names."""
    by_name = {function.printed: function for function in map(kept, targets) if function is not None}
    return [by_name[name] for name in sorted(by_name)]


def schema_type(value: object) -> tuple[str, str]:
    """The type of an argument in an operator's schema, and what stands for it in the name; empty where there is none."""
    if isinstance(value, list | tuple):
        kinds = {schema_type(item) for item in value} or {("SymInt", "i")}
        text, short = kinds.pop()
        able = not kinds and text in ("bool", "SymInt", "float")
        return (f"{text}[]", short.upper() + "l" * isinstance(value, list)) if able else ("", "")
    if isinstance(value, dict):
        return ("str", "m") if _plain(value) else ("", "")
    return next(((text, short) for kind, text, short in _TYPES if isinstance(value, kind)), ("", ""))


def _plain(value: dict[Any, Any]) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (SyntaxError, ValueError):  # it holds something else than numbers, strings and sequences of them
        return False


def spelled(args: Sequence[object]) -> list[object]:
    """Arguments as an operator takes them."""
    return [repr(x) if isinstance(x, dict) else x for x in args]


def place_of(function: type[Function]) -> tuple[str, str] | None:
    """The module and the qualified name by which a program finds a class; None where it cannot."""
    module, name = function.__module__, function.__qualname__
    member: Any = sys.modules.get(module)
    for part in name.split("."):
        member = getattr(member, part, None)
    model = _MODEL.fullmatch(module)
    return ((model[1] if model else module), name) if member is function else None


def keep(function: type[Function], place: tuple[str, str], args: Sequence[object], results: int, tupled: bool) -> Kept:
    """The function, found at `place`, as an operator of these kinds of arguments and so many results."""
    module, name = place
    types = [schema_type(value) for value in args]
    lists, dicts = (frozenset(i for i, x in enumerate(args) if isinstance(x, kind)) for kind in (list, dict))
    space, base = re.sub(r"\W", "_", module), name.replace(".", "_")
    overload = "".join(short for _, short in types) + (f"_{results}" if tupled else "")
    target = f"{space}.{base}.{overload}"
    if target not in _KEPT:
        returns = ", ".join(["Tensor"] * results)
        parameters = ", ".join(f"{text} x{i}" for i, (text, _) in enumerate(types))
        _define(space, f"{base}.{overload}", f"({parameters}) -> {f'({returns})' if tupled else returns}", target)
    _KEPT[target] = Kept(target, module, name, _printed(place), lists, dicts, tupled, function)
    return _KEPT[target]


def _printed(place: tuple[str, str]) -> str:
    """What programs call a function: its own name, unless another is called so or a program calls something else so."""
    import autopar.runtime

    own = place[1].rpartition(".")[2]
    taken = {own.printed for own in _KEPT.values() if (own.module, own.name) != place} | {*autopar.runtime.__all__, "F"}
    wishes = itertools.chain([own, f"{own}Function"], (f"{own}{i}" for i in itertools.count(2)))
    return next(wish for wish in wishes if wish not in taken)


def _define(space: str, name: str, schema: str, target: str) -> None:
    if space not in _LIBRARIES:
        _LIBRARIES[space] = torch.library.Library(space, "FRAGMENT")  # type: ignore[no-untyped-call]
    library = _LIBRARIES[space]
    library.define(name + schema)
    operator = overload_of(target)

    def whole(*args: object) -> Any:  # noqa: ANN401 (one tensor or several)
        with torch.no_grad():
            output = apply(_KEPT[target], args)
        own = [x.clone() if any(x is arg for arg in args) or x._is_view() else x for x in _tuple(output)]
        return tuple(own) if _KEPT[target].tupled else own[0]

    traced = make_autograd_impl(operator, Info(functools.partial(_no_backward, target), None))

    def differentiated(keys: Any, *args: object) -> Any:  # noqa: ANN401
        real = not any(isinstance(arg, torch.Tensor) and type(arg) not in _REAL for arg in args)
        return apply(_KEPT[target], args) if real else traced(keys, *args)

    library.impl(name, whole, "CompositeExplicitAutograd")
    library.impl(name, differentiated, "Autograd", with_keyset=True)
    torch.library.register_fake(f"{space}::{name}", whole, lib=library)


def apply(entry: Kept, args: Sequence[object]) -> Any:  # noqa: ANN401
    """The function on arguments as torch hands them to an operator."""
    own = [tuple(x) if isinstance(x, list) and i not in entry.lists else x for i, x in enumerate(args)]
    own = [ast.literal_eval(x) if i in entry.dicts and isinstance(x, str) else x for i, x in enumerate(own)]
    return entry.function.apply(*own)  # type: ignore[no-untyped-call]


def text(entry: Kept, args: Sequence[object]) -> str:
    """The call in a program: ``Straight.apply(x, 0.5)``."""
    texts = [literal(x) for x in args]
    texts = [f"[{x.strip('(),')}]" if i in entry.lists else x for i, x in enumerate(texts)]
    texts = [str(args[i]) if i in entry.dicts else x for i, x in enumerate(texts)]
    return f"{entry.printed}.apply({', '.join(texts)})"


def _no_backward(target: str, *_: object) -> None:
    raise NotImplementedError(f"the gradient of {_KEPT[target].name} is taken inside forward")


def _tuple(output: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return output if isinstance(output, tuple) else (output,)
