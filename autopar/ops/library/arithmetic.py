"""Operators of several tensors that treat every element alone: `y[i] = f(a[i], b[i], ...)`, with broadcasting.

Every dim of the result is a letter; an operand that is broadcast along a dim lacks its letter. Linear ones let
partial sums through: add in both operands together, mul and div in one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autopar.ir.graph import Ref
from autopar.ops.record.emit_context import Emit, EmitContext, function, method
from autopar.ops.record.op import Op, Sample, T, register
from autopar.ops.record.printing import atom, invoke, literal
from autopar.ops.record.rule import Call, Rule, broadcast, floating, with_linear

_X = T((4, 6))
_ROW = T((6,))
_POSITIVE = T((4, 6), "unit")


def _both(call: Call) -> Rule:
    """Sum of two tensors: linear in both together; adding a number is not linear."""
    linear = len(call.operands) == 2 and all(map(floating, call.operands))
    return with_linear(broadcast(call), {0, 1}) if linear else broadcast(call)


def _each(call: Call) -> Rule:
    """Product: linear in either tensor while the other is whole."""
    groups = [{i} for i, value in enumerate(call.operands) if floating(value)]
    return with_linear(broadcast(call), *groups)


def _first(call: Call) -> Rule:
    """Quotient without rounding: linear in a tensor numerator."""
    mode = dict(call.node.kwargs).get("rounding_mode")
    numerator = isinstance(call.node.args[0], Ref) and floating(call.operands[0]) and mode is None
    return with_linear(broadcast(call), {0}) if numerator else broadcast(call)


def infix(symbol: str) -> Emit:
    """``a + b``, ``a + 2 * b`` with an alpha."""

    def emit(ctx: EmitContext) -> str:
        alpha = ctx.pick(2, "alpha", 1)
        right = literal(ctx.args[1]) if isinstance(ctx.args[1], int | float) else atom(ctx.args[1])
        return (
            f"{atom(ctx.args[0])} {symbol} {right}"
            if alpha == 1
            else f"{atom(ctx.args[0])} {symbol} {literal(alpha)} * {right}"
        )

    return emit


def _emit_rsub(ctx: EmitContext) -> str:
    alpha = ctx.pick(2, "alpha", 1)
    right = atom(ctx.args[0]) if alpha == 1 else f"{literal(alpha)} * {atom(ctx.args[0])}"
    return f"{atom(ctx.args[1])} - {right}"


def _emit_div(ctx: EmitContext) -> str:
    mode = ctx.kwargs.get("rounding_mode")
    if mode is None:
        return f"{atom(ctx.args[0])} / {atom(ctx.args[1])}"
    return invoke("torch.div", ctx.args[:2], [("rounding_mode", mode, None)])


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
    "div",
    ("aten.div.Tensor", "aten.div.Scalar", "aten.div.Tensor_mode", "aten.div.Scalar_mode", "aten.true_divide.Tensor"),
    _first, _emit_div, "inputs",
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
    "where", ("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar"), _where_rule,
    function("torch.where", 3), "inputs",
    Sample((T((4, 6), "bool"), _X, _ROW)), Sample((T((4, 6), "bool"), _X, 0.0), target="aten.where.ScalarOther"),
    Sample((T((4, 6), "bool"), -1.0, _X), target="aten.where.ScalarSelf"),
    Sample((T((4, 6), "bool"), 1.0, 0.0), target="aten.where.Scalar"),
)  # fmt: skip


def _masked_fill_rule(call: Call) -> Rule:
    """Linear in x where the mask is filled with zeros."""
    rule = broadcast(call)
    return with_linear(rule, {0}) if call.node.args[2] == 0 and floating(call.operands[0]) else rule


_operator(
    "masked_fill", ("aten.masked_fill.Scalar", "aten.masked_fill.Tensor"), _masked_fill_rule, method("masked_fill", operands=3),
    "inputs",
    Sample((_X, T((6,), "bool"), 0.0)), Sample((_X, T((4, 6), "bool"), -1e9)),
    Sample((_X, T((4, 6), "bool"), T(())), target="aten.masked_fill.Tensor"),
)  # fmt: skip


def _lerp_rule(call: Call) -> Rule:
    rule = broadcast(call)
    return with_linear(rule, {0, 1}) if len(call.operands) > 1 else rule


_operator(
    "lerp", ("aten.lerp.Scalar", "aten.lerp.Tensor"), _lerp_rule, function("torch.lerp", 3), "inputs",
    Sample((_X, T((4, 6)), 0.3)), Sample((_X, T((4, 6)), T((6,))), target="aten.lerp.Tensor"),
)  # fmt: skip
for _name in ("addcmul", "addcdiv"):
    _operator(
        _name, (f"aten.{_name}.default",), lambda call: with_linear(broadcast(call), {0, 1}),
        function(f"torch.{_name}", 3, ("value", 1)), "inputs",
        Sample((_X, T((4, 6)), T((6,), "positive"))), Sample((_X, T((4, 6)), _POSITIVE), (("value", 2.0),)),
    )  # fmt: skip


_operator(
    "pow", ("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar"), broadcast, infix("**"), "inputs",
    Sample((_X, 3.0)), Sample((_POSITIVE, T((6,))), target="aten.pow.Tensor_Tensor"),
    Sample((2.0, _X), target="aten.pow.Scalar"),
)  # fmt: skip

_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
for _name, _symbol in _COMPARISONS.items():
    _operator(
        _name, (f"aten.{_name}.Tensor", f"aten.{_name}.Scalar"), broadcast, infix(_symbol), "",
        Sample((T((4, 6), "index 4"), T((4, 1), "index 4"))), Sample((_X, 0.0), target=f"aten.{_name}.Scalar"),
    )  # fmt: skip

_LOGICAL = {"__and__.Tensor": "&", "__or__.Tensor": "|", "__xor__.Tensor": "^"}
_LOGICAL |= {"bitwise_and.Tensor": "&", "bitwise_or.Tensor": "|", "bitwise_xor.Tensor": "^"}
for _name, _symbol in _LOGICAL.items():
    _operator(
        _name, (f"aten.{_name}",), broadcast, infix(_symbol), "", Sample((T((4, 6), "bool"), T((6,), "bool")))
    )  # fmt: skip
for _name, _symbol in (("and", "&"), ("or", "|"), ("xor", "^")):
    _scalars = (f"aten.bitwise_{_name}.Scalar", f"aten.bitwise_{_name}.Scalar_Tensor")
    _operator(
        f"bitwise_{_name}_number", (*_scalars, f"aten.__{_name}__.Scalar"), broadcast, infix(_symbol), "",
        Sample((T((4, 6), "index 9"), 5)), Sample((5, T((4, 6), "index 9")), target=_scalars[1]),
    )  # fmt: skip

# Functions of two tensors: torch's name, overloads (with a number in place of one tensor), and two samples' kinds.
_PAIRS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "maximum": (("default",), "normal", "normal"),
    "minimum": (("default",), "normal", "normal"),
    "fmax": (("default",), "normal", "normal"),
    "fmin": (("default",), "normal", "normal"),
    "max": (("other",), "normal", "normal"),
    "min": (("other",), "normal", "normal"),
    "atan2": (("default",), "normal", "unit"),
    "fmod": (("Tensor", "Scalar"), "normal", "unit"),
    "remainder": (("Tensor", "Scalar", "Scalar_Tensor"), "normal", "unit"),
    "logical_and": (("default",), "bool", "bool"),
    "logical_or": (("default",), "bool", "bool"),
    "logical_xor": (("default",), "bool", "bool"),
    "copysign": (("Tensor", "Scalar"), "normal", "normal"),
    "hypot": (("default",), "normal", "normal"),
    "heaviside": (("default",), "constant", "constant"),
    "igamma": (("default",), "positive", "unit"),
    "igammac": (("default",), "positive", "unit"),
    "gcd": (("default",), "index 9", "index 9"),
    "lcm": (("default",), "index 9", "index 9"),
    "ldexp": (("Tensor",), "normal", "normal"),
    "logaddexp": (("default",), "normal", "normal"),
    "logaddexp2": (("default",), "normal", "normal"),
    "nextafter": (("default",), "normal", "normal"),
    "xlogy": (("Tensor", "Scalar_Other", "Scalar_Self"), "normal", "unit"),
    "special_xlog1py": (("default", "other_scalar", "self_scalar"), "normal", "unit"),
    "bitwise_left_shift": (("Tensor", "Tensor_Scalar", "Scalar_Tensor"), "index 9", "index 4"),
    "bitwise_right_shift": (("Tensor", "Tensor_Scalar", "Scalar_Tensor"), "index 9", "index 4"),
}
_POLYNOMIALS: tuple[str, ...] = (
    "chebyshev_polynomial_t",
    "chebyshev_polynomial_u",
    "chebyshev_polynomial_v",
    "chebyshev_polynomial_w",
)
_POLYNOMIALS += tuple(f"shifted_{_name}" for _name in _POLYNOMIALS)
_POLYNOMIALS += ("hermite_polynomial_h", "hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p")
_PAIRS |= {f"special_{_name}": (("default", "x_scalar", "n_scalar"), "positive", "positive") for _name in _POLYNOMIALS}


def _pair_samples(name: str, overloads: tuple[str, ...], left: str, right: str) -> list[Sample]:
    """Two tensors, and a number in place of either where an overload takes one."""
    x, y = T((4, 6), left), T((6,), right)
    number = 2 if left.startswith("index") else 1.5
    first, second = ("Scalar_Tensor", "self_scalar", "Scalar_Self"), ("Scalar", "Tensor_Scalar", "Scalar_Other")
    samples = [Sample((x, y))]
    other = "positive" if name == "remainder" else right  # torch knows no gradient of that one
    samples += [Sample((number, T((4, 6), other)), (), f"aten.{name}.{form}") for form in overloads if form in first]
    return samples + [Sample((x, number), (), f"aten.{name}.{form}") for form in overloads if form in second]


for _name, (_overloads, _left, _right) in _PAIRS.items():
    _printed = f"torch.{_name}" if not _name.startswith("special_") else f"torch.special.{_name[8:]}"
    _operator(
        f"{_name}_pair" if _name in ("max", "min") else _name, tuple(f"aten.{_name}.{overload}" for overload in _overloads),
        broadcast, function(_printed, 2), "inputs", *_pair_samples(_name, _overloads, _left, _right),
    )  # fmt: skip


def _emit_clamp(ctx: EmitContext) -> str:
    """``x.clamp(min=low, max=high)`` with bounds that are tensors."""
    kind = ctx.call.function
    low = ctx.pick(1, "min") if kind != "clamp_max" else None
    high = ctx.pick(1, "max") if kind == "clamp_max" else ctx.pick(2, "max")
    return invoke(f"{atom(ctx.args[0])}.clamp", (), [("min", low, None), ("max", high, None)])


_operator(
    "clamp_tensor", ("aten.clamp.Tensor", "aten.clip.Tensor", "aten.clamp_min.Tensor", "aten.clamp_max.Tensor"),
    broadcast, _emit_clamp, "inputs",
    Sample((_X, T((6,), "constant"), T((4, 6), "positive"))), Sample((_X, None, T((6,)))),
    Sample((_X, T((6,)), T((4, 6), "unit"))), Sample((_X, T((6,)), T((4, 6))), target="aten.clip.Tensor"),
    Sample((_X, T((6,))), target="aten.clamp_min.Tensor"), Sample((_X, T((4, 1))), target="aten.clamp_max.Tensor"),
)  # fmt: skip
_operator(
    "floor_divide", ("aten.floor_divide.default", "aten.floor_divide.Scalar"), broadcast, infix("//"), "",
    Sample((T((4, 6), "index 9"), 2)),
)  # fmt: skip


_operator(
    "float_power", ("aten.float_power.Tensor_Scalar", "aten.float_power.Tensor_Tensor", "aten.float_power.Scalar"),
    broadcast, function("torch.float_power", 2), "inputs",
    Sample((_X, 2.0)), Sample((_POSITIVE, T((6,))), target="aten.float_power.Tensor_Tensor"),
    Sample((2.0, _X), target="aten.float_power.Scalar"),
)  # fmt: skip
_operator(
    "isclose", ("aten.isclose.default",), broadcast,
    function("torch.isclose", 2, ("rtol", 1e-5), ("atol", 1e-8), ("equal_nan", False)), "",
    Sample((T((4, 6), "constant"), T((6,), "constant"))),
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
