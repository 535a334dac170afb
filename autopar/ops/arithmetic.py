"""Operators of several tensors that treat every element alone: `y[i] = f(a[i], b[i], ...)`, with broadcasting.

Every dim of the result is a letter; an operand that is broadcast along a dim lacks its letter. Linear ones let
partial sums through: add in both operands together, mul and div in one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from autopar.graph import Ref
from autopar.ops.op import Emit, Local, Op, Sample, T, register
from autopar.ops.rule import Call, Rule, broadcast, floating, with_linear
from autopar.ops.text import atom, function, invoke, literal, pick

_X = T((4, 6))
_ROW = T((6,))
_POSITIVE = T((4, 6), "unit")


def _both(call: Call) -> Rule:
    """Sum of two tensors: linear in both together; adding a number is not linear."""
    return with_linear(broadcast(call), {0, 1}) if _all_floating(call, 2) else broadcast(call)


def _each(call: Call) -> Rule:
    """Product: linear in either tensor while the other is whole."""
    groups = [{i} for i, value in enumerate(call.operands) if floating(value)]
    return with_linear(broadcast(call), *groups)


def _first(call: Call) -> Rule:
    """Quotient without rounding: linear in a tensor numerator."""
    mode = dict(call.node.kwargs).get("rounding_mode")
    numerator = isinstance(call.node.args[0], Ref) and floating(call.operands[0]) and mode is None
    return with_linear(broadcast(call), {0}) if numerator else broadcast(call)


def _all_floating(call: Call, count: int) -> bool:
    return len(call.operands) == count and all(map(floating, call.operands))


def infix(symbol: str) -> Emit:
    """``a + b``, ``a + 2 * b`` with an alpha."""

    def emit(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        alpha = pick(args, kwargs, 2, "alpha", 1)
        right = literal(args[1]) if isinstance(args[1], int | float) else atom(args[1])
        return (
            f"{atom(args[0])} {symbol} {right}"
            if alpha == 1
            else f"{atom(args[0])} {symbol} {literal(alpha)} * {right}"
        )

    return emit


def _emit_rsub(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    alpha = pick(args, kwargs, 2, "alpha", 1)
    right = atom(args[0]) if alpha == 1 else f"{literal(alpha)} * {atom(args[0])}"
    return f"{atom(args[1])} - {right}"


def _emit_div(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    mode = kwargs.get("rounding_mode")
    if mode is None:
        return f"{atom(args[0])} / {atom(args[1])}"
    return invoke("torch.div", args[:2], [("rounding_mode", mode, None)])


_BINARY_TENSOR = (_X, T((4, 6)))
_BINARY_ROW = (_X, _ROW)


def _operator(
    name: str, targets: tuple[str, ...], rule: Callable[[Call], Rule], emit: Emit, saves: str, *samples: Sample
) -> None:
    register(Op(name, targets, "d*, d* -> d*", rule, emit, saves=saves, samples=samples))


_operator(
    "add", ("aten.add.Tensor", "aten.add.Scalar"), _both, infix("+"), "",
    Sample(_BINARY_TENSOR), Sample(_BINARY_ROW), Sample((_X, 1.5)), Sample((_X, T((4, 1))), (("alpha", 2),)),
    Sample((T(()), _X)), Sample((_X, T((4, 6), "constant"))),
)  # fmt: skip
_operator(
    "sub", ("aten.sub.Tensor", "aten.sub.Scalar"), _both, infix("-"), "",
    Sample(_BINARY_TENSOR), Sample((_ROW, _X)), Sample((_X, 1.5)), Sample(_BINARY_ROW, (("alpha", 2),)),
)  # fmt: skip
_operator(
    "rsub", ("aten.rsub.Scalar", "aten.rsub.Tensor"), _both, _emit_rsub, "",
    Sample((_X, 1.0)), Sample(_BINARY_ROW, target="aten.rsub.Tensor"),
)  # fmt: skip
_operator(
    "mul", ("aten.mul.Tensor", "aten.mul.Scalar"), _each, infix("*"), "inputs",
    Sample(_BINARY_TENSOR), Sample(_BINARY_ROW), Sample((_X, -0.5)), Sample((T((2, 1, 6)), T((4, 1)))),
    Sample((_X, T((4, 6), "bool"))),
)  # fmt: skip
_operator(
    "div", ("aten.div.Tensor", "aten.div.Scalar", "aten.div.Tensor_mode"), _first, _emit_div, "inputs",
    Sample((_X, T((6,), "unit"))), Sample((_X, 4.0)),
    Sample((_X, 2.0), (("rounding_mode", "floor"),), "aten.div.Tensor_mode"),
)  # fmt: skip


def _where_rule(call: Call) -> Rule:
    """A choice between two tensors: linear in both together; between a tensor and 0: in that tensor."""
    chosen = call.node.args[1:]
    tensors = [i for i, argument in enumerate(chosen, 1) if isinstance(argument, Ref)]
    numbers = [argument for argument in chosen if not isinstance(argument, Ref)]
    passing = all(floating(call.operands[i]) for i in range(1, len(call.operands))) and tensors
    rule = broadcast(call)
    return with_linear(rule, range(1, len(call.operands))) if passing and not any(numbers) else rule


_operator(
    "where", ("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf"), _where_rule,
    function("torch.where", 3), "inputs",
    Sample((T((4, 6), "bool"), _X, _ROW)), Sample((T((4, 6), "bool"), _X, 0.0), target="aten.where.ScalarOther"),
    Sample((T((4, 6), "bool"), -1.0, _X), target="aten.where.ScalarSelf"),
)  # fmt: skip


def _masked_fill_rule(call: Call) -> Rule:
    """Linear in x where the mask is filled with zeros."""
    rule = broadcast(call)
    return with_linear(rule, {0}) if call.node.args[2] == 0 and floating(call.operands[0]) else rule


def _emit_masked_fill(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    return f"{atom(args[0])}.masked_fill({literal(args[1])}, {literal(args[2])})"


_operator(
    "masked_fill", ("aten.masked_fill.Scalar", "aten.masked_fill.Tensor"), _masked_fill_rule, _emit_masked_fill,
    "inputs",
    Sample((_X, T((6,), "bool"), 0.0)), Sample((_X, T((4, 6), "bool"), -1e9)),
    Sample((_X, T((4, 6), "bool"), T(())), target="aten.masked_fill.Tensor"),
)  # fmt: skip


def _lerp_rule(call: Call) -> Rule:
    rule = broadcast(call)
    return with_linear(rule, {0, 1}) if len(call.operands) > 1 else rule


def _emit_addc(name: str) -> Emit:
    return function(f"torch.{name}", 3, ("value", 1))


def _addc_rule(call: Call) -> Rule:
    return with_linear(broadcast(call), {0, 1})


_operator(
    "lerp", ("aten.lerp.Scalar", "aten.lerp.Tensor"), _lerp_rule, function("torch.lerp", 3), "inputs",
    Sample((_X, T((4, 6)), 0.3)), Sample((_X, T((4, 6)), T((6,))), target="aten.lerp.Tensor"),
)  # fmt: skip
for _name in ("addcmul", "addcdiv"):
    _operator(
        _name, (f"aten.{_name}.default",), _addc_rule, _emit_addc(_name), "inputs",
        Sample((_X, T((4, 6)), T((6,), "positive"))), Sample((_X, T((4, 6)), _POSITIVE), (("value", 2.0),)),
    )  # fmt: skip


def _pointwise(call: Call) -> Rule:
    return broadcast(call)


_operator(
    "pow", ("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar"), _pointwise, infix("**"), "inputs",
    Sample((_X, 3.0)), Sample((_POSITIVE, T((6,))), target="aten.pow.Tensor_Tensor"),
    Sample((2.0, _X), target="aten.pow.Scalar"),
)  # fmt: skip

_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
for _name, _symbol in _COMPARISONS.items():
    _operator(
        _name, (f"aten.{_name}.Tensor", f"aten.{_name}.Scalar"), _pointwise, infix(_symbol), "",
        Sample((T((4, 6), "index 4"), T((4, 1), "index 4"))), Sample((_X, 0.0), target=f"aten.{_name}.Scalar"),
    )  # fmt: skip

_LOGICAL = {"__and__.Tensor": "&", "__or__.Tensor": "|", "__xor__.Tensor": "^"}
_LOGICAL |= {"bitwise_and.Tensor": "&", "bitwise_or.Tensor": "|", "bitwise_xor.Tensor": "^"}
for _name, _symbol in _LOGICAL.items():
    _operator(
        _name, (f"aten.{_name}",), _pointwise, infix(_symbol), "", Sample((T((4, 6), "bool"), T((6,), "bool")))
    )  # fmt: skip

for _name in ("maximum", "minimum", "atan2", "fmod", "remainder", "logical_and", "logical_or", "logical_xor"):
    _overload = "Tensor" if _name in ("fmod", "remainder") else "default"
    _sample = Sample((_X, T((6,), "unit")), target=f"aten.{_name}.{_overload}")
    _scalar = (f"aten.{_name}.Scalar",) if _overload == "Tensor" else ()
    _operator(
        _name, (f"aten.{_name}.{_overload}", *_scalar), _pointwise, function(f"torch.{_name}", 2), "inputs", _sample
    )  # fmt: skip
_operator(
    "floor_divide", ("aten.floor_divide.default",), _pointwise, infix("//"), "",
    Sample((T((4, 6), "index 9"), 2)),
)  # fmt: skip


def _prelu_rule(call: Call) -> Rule:
    """One slope for all, or one per channel (dim 1)."""
    x, weight = call.operands
    alone = replace(call, operands=(x,))
    rule = broadcast(alone)
    slopes = (("d1",),) if weight.numel > 1 else tuple(() for _ in weight.shape)
    return replace(rule, operands=(*rule.operands, slopes))


_operator(
    "prelu", ("aten.prelu.default",), _prelu_rule, function("F.prelu", 2), "inputs",
    Sample((T((3, 4, 2)), T((4,)))), Sample((_X, T((1,)))),
)  # fmt: skip
