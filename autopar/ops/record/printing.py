"""Python text of the parts of a call: literals, operands with brackets where needed, keyword arguments, local sizes.

Every emitter of this folder is built from these. An argument is an `Expr` (a tensor's variable or a short expression)
or a plain literal; a size is the product of the local extents of a dim's letters.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, reduce
from typing import Any

from autopar.ir.graph import Dtype
from autopar.ops.record.op import Emit, Expr, Local
from autopar.ops.record.rule import Call, Rule


@cache
def gives_list(target: str) -> bool:
    """Whether an operator returns a list of tensors, so that an only result is the list's only entry."""
    import torch

    if target.startswith("autopar."):
        return False
    overload: Any = reduce(getattr, target.split("."), torch.ops)
    return [str(one.type) for one in overload._schema.returns] == ["List[Tensor]"]


def literal(value: object) -> str:
    """A literal or an operand as source.

    >>> literal((1, 2)), literal("tanh"), literal(Dtype("float32")), literal(float("-inf"))
    ('(1, 2)', '"tanh"', 'torch.float32', 'float("-inf")')
    """
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, Dtype):
        return f"torch.{value.name}"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, complex) and not cmath.isfinite(value):
        return f"complex({literal(value.real)}, {literal(value.imag)})"
    if isinstance(value, tuple | list):
        inner = ", ".join(literal(item) for item in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return str(value)


def atom(value: object) -> str:
    """The same, in brackets where an operator or a dot beside it would tear it apart."""
    text = literal(value)
    compound = isinstance(value, Expr) and not value.atom
    negative = isinstance(value, int | float) and text.startswith("-")
    return f"({text})" if compound or negative else text


def extent(rule: Rule, local: Local, letter: str) -> str:
    """The expression of a letter's local extent."""
    return local.extent.get(letter, str(rule.extents[letter]))


def size(rule: Rule, local: Local, names: Iterable[str]) -> str:
    """The expression of the local extent of a dim with these letters: literal factors multiplied out, written last."""
    factors = [extent(rule, local, name) for name in names]
    number = math.prod(int(one) for one in factors if one.isdigit())
    parts = [one for one in factors if not one.isdigit()]
    return " * ".join([*parts, str(number)] if number != 1 or not parts else parts)


def sizes(rule: Rule, local: Local, dims: Iterable[tuple[str, ...]]) -> list[str]:
    """The local shape of a tensor."""
    return [size(rule, local, names) for names in dims]


def axes_text(axes: Sequence[str]) -> Expr:
    """A tuple of axes by their names."""
    return Expr(f"({axes[0]},)" if len(axes) == 1 else f"({', '.join(axes)})")


def place_text(rule: Rule, local: Local, names: Sequence[str]) -> Expr | None:
    """``(MODEL, 1024)``: the axis and the whole extent of a dim, as `autopar.runtime.grid.shard_positions` reads it; None if
    unsplit.
    """
    whole = math.prod(rule.extents[name] for name in names)
    cuts = []
    for at, name in enumerate(names):
        before = math.prod(rule.extents[one] for one in names[:at])
        after = math.prod(rule.extents[one] for one in names[at + 1 :])
        for axis, blocks, unit in local.readings.get(name, ()):
            reading = (before * blocks, after * unit)
            cuts.append(f"({axis}, {whole})" if reading == (1, 1) else f"({axis}, {whole}, {reading[0]}, {reading[1]})")
    return Expr(cuts[0] if len(cuts) == 1 else f"({', '.join(cuts)})") if cuts else None


def over_text(rule: Rule, local: Local, dims: Iterable[Sequence[str]]) -> Expr | None:
    """``{0: (DATA, 8), 2: (MODEL, 1024)}``: the places of all split dims; None where none is split."""
    places = [(dim, place_text(rule, local, names)) for dim, names in enumerate(dims)]
    found = [f"{dim}: {place}" for dim, place in places if place]
    return Expr("{" + ", ".join(found) + "}") if found else None


def same(value: object, default: object) -> bool:
    """Whether a literal says what torch assumes anyway; tensors never do."""
    if isinstance(value, Expr) or isinstance(default, Expr):
        return False
    if isinstance(value, bool) != isinstance(default, bool) or (value is None) != (default is None):
        return False
    return value == default


def invoke(function: str, given: Sequence[object], options: Iterable[tuple[str, object, object]] = ()) -> str:
    """``function(given, name=value)`` without Nones at the end and options (name, value, default) at default."""
    positional = list(given)
    while positional and positional[-1] is None:
        positional.pop()
    parts = [literal(value) for value in positional]
    parts += [f"{name}={literal(value)}" for name, value, default in options if not same(value, default)]
    return f"{function}({', '.join(parts)})"


def pick(args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str, default: object = None) -> Any:  # noqa: ANN401
    """The argument at `position` or called `name`; a None counts as not given."""
    value = args[position] if position < len(args) else kwargs.get(name)
    return default if value is None else value


def options(
    args: Sequence[Any], kwargs: Mapping[str, Any], start: int, table: Iterable[tuple[str, object]]
) -> list[tuple[str, object, object]]:
    """Options (name, value, default) for the arguments that follow position `start` in the order of `table`."""
    return [(name, pick(args, kwargs, start + i, name, default), default) for i, (name, default) in enumerate(table)]


def function(name: str, operands: int, *table: tuple[str, object]) -> Emit:
    """An emitter of ``name(operands..., option=value)``; `table` lists the options and torch's defaults."""

    def emit(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        if _unsaid(args, kwargs, operands, table):
            return overload(call, args, kwargs)
        return invoke(name, args[:operands], options(args, kwargs, operands, table))

    return emit


def _unsaid(args: Sequence[Any], kwargs: Mapping[str, Any], start: int, table: Sequence[tuple[str, object]]) -> bool:
    """Whether there are arguments of which the table knows nothing."""
    more = any(one is not None for one in args[start + len(table) :])
    return more or any(name not in dict(table) for name, one in kwargs.items() if one is not None)


def overload(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """``torch.ops.aten.x.overload(...)``: the call itself, where the function that is otherwise printed cannot say it."""
    named = [(name, value, None) for name, value in kwargs.items()]
    return invoke(f"torch.ops.{call.node.target}", args, named)


def method(name: str, *table: tuple[str, object]) -> Emit:
    """An emitter of ``x.name(option=value)``."""

    def emit(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        if _unsaid(args, kwargs, 1, table):
            return overload(call, args, kwargs)
        return invoke(f"{atom(args[0])}.{name}", (), options(args, kwargs, 1, table))

    return emit


def normal_dim(dim: object, ndim: int) -> int:
    """A dim counted from the front."""
    assert isinstance(dim, int)
    return dim % ndim if ndim else 0
