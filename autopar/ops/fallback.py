"""The operator of any ATen target without a record of its own, and of calls that a record refuses: whole on every rank.

Its rule freezes every dim, so that only Replicate and Copied are left, which are right for every operator. It is
printed as the function of the same name in ``torch`` where torch generated that from the same schema, else as
``torch.ops.aten.x.overload``.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import reduce
from typing import Any

from autopar.graph import Value
from autopar.ops.op import Local, Op
from autopar.ops.rule import Call, Dims, Rule
from autopar.ops.text import literal


def whole_rule(call: Call) -> Rule:
    """No letter that may be split."""
    extents: dict[str, int] = {}

    def dims(value: Value, side: str) -> Dims:
        names = tuple((f"{side}_{i}",) for i in range(len(value.shape)))
        extents.update({name: n for (name,), n in zip(names, value.shape, strict=True)})
        return names if value.name else ()

    operands = tuple(dims(value, f"operand{i}") for i, value in enumerate(call.operands))
    results = tuple(dims(value, f"result{i}") for i, value in enumerate(call.results))
    return Rule(operands, results, extents, frozenset(extents), refused=True)


def emit_whole(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The call as torch knows it."""
    import torch

    space, name, _ = call.node.target.split(".")
    listed = any(
        isinstance(arg, tuple) and None in arg for arg in args
    )  # torch.f takes no None inside a list of tensors
    generated = space == "aten" and isinstance(getattr(torch, name, None), types.BuiltinFunctionType) and not listed
    function = f"torch.{name}" if generated else f"torch.ops.{call.node.target}"
    function = function.removesuffix(".default") if space != "aten" else function
    given = [literal(value) for value in args]
    while given and args[len(given) - 1] is None and _optional(call.node.target, len(given) - 1):
        given.pop()
    given += [f"{key}={literal(value)}" for key, value in kwargs.items() if value is not None]
    return f"{function}({', '.join(given)})"


def _optional(target: str, position: int) -> bool:
    """Whether an argument may be left out."""
    import torch

    found: Any = reduce(getattr, target.split("."), torch.ops)
    return bool(found._schema.arguments[position].has_default_value())


FALLBACK = Op(
    name="fallback",
    targets=(),
    note="whole on every rank",
    rule=whole_rule,
    emit=emit_whole,
    work="pointwise",
)
