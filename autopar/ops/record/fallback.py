"""The operator of any ATen target without a record of its own, and of calls that a record refuses: whole on every rank.

Its rule freezes every dim, so that only Replicate and Copied are left, which are right for every operator. It is
printed as the function of the same name in ``torch`` where that comes to the same ATen call with the same arguments
(`autopar.ops.record.reached_call`), if need be with defaults written out, else as ``torch.ops.aten.x.overload``.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any

from autopar.ir.graph import Value
from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Op
from autopar.ops.record.overloads import overload_of
from autopar.ops.record.printing import literal
from autopar.ops.record.rule import Call, Dims, Rule


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


def emit_whole(ctx: EmitContext) -> str:
    """The call as torch knows it: ``torch.f(...)`` where that comes to this call, else the overload itself."""
    from autopar.ops.record import user_functions

    target = ctx.call.node.target
    if (own := user_functions.kept(target)) is not None:
        return user_functions.text(own, ctx.args)
    space, name, _ = target.split(".")
    args, named = _trimmed(target, ctx.args), {key: value for key, value in ctx.kwargs.items() if value is not None}
    if space == "aten":
        count, every = len(args), _trimmed(target, (*ctx.args, *_defaults(target, len(ctx.args))))
        for some in (args, every) if len(every) > count else (args,):
            if _comes_to(
                ctx.call, name, (*ctx.call.node.args, *_defaults(target, len(ctx.args)))[: len(some)], tuple(named)
            ):
                return _text(f"torch.{name}", some, named)
    named |= dict.fromkeys(key for key in _needed(target) if key not in named)
    return _text(f"torch.ops.{target}".removesuffix(".default" if space != "aten" else ""), args, named)


def _text(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    arguments = [*map(literal, args), *(f"{key}={literal(value)}" for key, value in kwargs.items())]
    return f"{function}({', '.join(arguments)})"


def _trimmed(target: str, args: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments without Nones at the end that are the default."""
    schema, kept = _arguments(target), list(args)
    while kept and kept[-1] is None and schema[len(kept) - 1].default_value is None:
        if not schema[len(kept) - 1].has_default_value():
            break
        kept.pop()
    return tuple(kept)


def _defaults(target: str, count: int) -> tuple[Any, ...]:
    """What the arguments by position from the `count`-th on are where they are not given."""
    free = [arg for arg in _arguments(target) if not arg.kwarg_only]
    values = [arg.default_value for arg in free[count:]]
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def _needed(target: str) -> list[str]:
    """The keywords that a call must name."""
    return [arg.name for arg in _arguments(target) if arg.kwarg_only and not arg.has_default_value()]


def _comes_to(call: Call, name: str, args: Sequence[Any], keywords: Sequence[str]) -> bool:
    """Whether ``torch.name`` with these arguments makes the call."""
    import torch

    from autopar.ops.record.reached_call import reaches

    function = getattr(torch, name, None)
    passed = {key: value for key, value in call.node.kwargs if key in keywords}
    return isinstance(function, types.BuiltinFunctionType) and reaches(function, call, args, passed)


def _arguments(target: str) -> list[Any]:
    """The arguments of an overload, as its schema has them."""
    return list(overload_of(target)._schema.arguments)


FALLBACK = Op(
    name="fallback",
    targets=(),
    note="whole on every rank",
    rule=whole_rule,
    emit=emit_whole,
    work="pointwise",
)
