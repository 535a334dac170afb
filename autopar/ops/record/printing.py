"""Python text of the parts of a call: literals, operands with brackets where needed, keyword arguments, local sizes.

Every emitter of this folder is built from these. An argument is an `Expr` (a tensor's variable or a short expression)
or a plain literal; a size is the product of the local extents of a dim's letters.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autopar.ir.graph import Dtype


@dataclass(frozen=True, slots=True)
class Expr:
    """A tensor argument during emission: a Python expression; `atom` is false if it needs brackets before a dot."""

    text: str
    atom: bool = True

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


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


def tuple_text(parts: Sequence[str]) -> Expr:
    """A tuple of these expressions."""
    return Expr(f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})")


def same(value: object, default: object) -> bool:
    """Whether a literal says what torch assumes anyway; tensors never do."""
    if isinstance(value, Expr) or isinstance(default, Expr):
        return False
    if isinstance(value, bool) != isinstance(default, bool) or (value is None) != (default is None):
        return False
    return value == default


def invoke(function: str, arguments: Sequence[object], options: Iterable[tuple[str, object, object]] = ()) -> str:
    """``function(given, name=value)`` without Nones at the end and options (name, value, default) at default."""
    positional = list(arguments)
    while positional and positional[-1] is None:
        positional.pop()
    parts = [literal(value) for value in positional]
    parts += [f"{name}={literal(value)}" for name, value, default in options if not same(value, default)]
    return f"{function}({', '.join(parts)})"
