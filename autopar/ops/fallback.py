"""The operator of any ATen target without a record of its own, and of calls that a record refuses: whole on every rank.

Its rule freezes every dim, so that only Replicate and Copied are left, which are right for every operator. It is
printed as the function of the same name in ``torch`` where torch generated that from the same schema, else as
``torch.ops.aten.x.overload``.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from autopar.graph import Value
from autopar.ops.op import Local, Op
from autopar.ops.rule import Call, Dims, Rule
from autopar.ops.text import invoke


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

    _, name, overload = call.node.target.split(".")
    generated = isinstance(getattr(torch, name, None), types.BuiltinFunctionType)
    function = f"torch.{name}" if generated else f"torch.ops.aten.{name}.{overload}"
    return invoke(function, args, [(key, value, None) for key, value in kwargs.items()])


FALLBACK = Op(
    name="fallback",
    targets=(),
    note="whole on every rank",
    rule=whole_rule,
    emit=emit_whole,
    work="pointwise",
)
