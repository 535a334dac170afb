"""Operators of one tensor that treat every element alone: `y[i] = f(x[i])`. Every dim is a letter.

Most are one line of a table. Signs, casts and copies are linear, and let partial sums through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from autopar.graph import Dtype
from autopar.ops.op import Emit, Local, Op, Sample, T, register
from autopar.ops.rule import Call, Rule, broadcast, floating, with_linear
from autopar.ops.text import atom, function, literal, method

_X = T((4, 6))
_POSITIVE = T((4, 6), "unit")


def _unary(call: Call) -> Rule:
    return broadcast(call)


def _linear_unary(call: Call) -> Rule:
    """Linear, provided that both sides are real numbers."""
    rule = broadcast(call)
    return with_linear(rule, {0}) if all(map(floating, (*call.operands, *call.results))) else rule


def _prefix(symbol: str) -> Emit:
    def emit(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        return f"{symbol}{atom(args[0])}"

    return emit


# Pointwise functions of one tensor: ATen name, how it is printed, what autograd keeps, further argument samples.
_FUNCTIONS: tuple[tuple[str, Emit, str, tuple[tuple[object, ...], ...]], ...] = (
    ("relu", function("F.relu", 1), "output", ((_X,),)),
    ("relu6", function("F.relu6", 1), "inputs", ((_X,),)),
    ("tanh", function("torch.tanh", 1), "output", ((_X,),)),
    ("sigmoid", function("torch.sigmoid", 1), "output", ((_X,),)),
    ("silu", function("F.silu", 1), "inputs", ((_X,),)),
    ("mish", function("F.mish", 1), "inputs", ((_X,),)),
    ("elu", function("F.elu", 1, ("alpha", 1.0)), "output", ((_X,), (_X, 0.5))),
    ("selu", function("F.selu", 1), "output", ((_X,),)),
    ("leaky_relu", function("F.leaky_relu", 1, ("negative_slope", 0.01)), "inputs", ((_X,), (_X, 0.2))),
    ("hardtanh", function("F.hardtanh", 1, ("min_val", -1.0), ("max_val", 1.0)), "inputs", ((_X, -0.5, 0.5),)),
    ("hardswish", function("F.hardswish", 1), "inputs", ((_X,),)),
    ("hardsigmoid", function("F.hardsigmoid", 1), "inputs", ((_X,),)),
    ("softplus", function("F.softplus", 1, ("beta", 1.0), ("threshold", 20.0)), "inputs", ((_X,), (_X, 2.0, 9.0))),
    ("log_sigmoid", function("F.logsigmoid", 1), "inputs", ((_X,),)),
    ("exp", function("torch.exp", 1), "output", ((_X,),)),
    ("exp2", function("torch.exp2", 1), "output", ((_X,),)),
    ("expm1", function("torch.expm1", 1), "output", ((_X,),)),
    ("log", function("torch.log", 1), "inputs", ((_POSITIVE,),)),
    ("log2", function("torch.log2", 1), "inputs", ((_POSITIVE,),)),
    ("log1p", function("torch.log1p", 1), "inputs", ((_POSITIVE,),)),
    ("sqrt", function("torch.sqrt", 1), "output", ((_POSITIVE,),)),
    ("rsqrt", function("torch.rsqrt", 1), "output", ((_POSITIVE,),)),
    ("reciprocal", function("torch.reciprocal", 1), "output", ((_X,),)),
    ("square", function("torch.square", 1), "inputs", ((_X,),)),
    ("abs", method("abs"), "inputs", ((_X,),)),
    ("sin", function("torch.sin", 1), "inputs", ((_X,),)),
    ("cos", function("torch.cos", 1), "inputs", ((_X,),)),
    ("erf", function("torch.erf", 1), "inputs", ((_X,),)),
    ("atan", function("torch.atan", 1), "inputs", ((_X,),)),
    ("sign", function("torch.sign", 1), "", ((_X,),)),
    ("floor", function("torch.floor", 1), "", ((_X,),)),
    ("ceil", function("torch.ceil", 1), "", ((_X,),)),
    ("round", function("torch.round", 1), "", ((_X,),)),
    ("isnan", function("torch.isnan", 1), "", ((_X,),)),
    ("isinf", function("torch.isinf", 1), "", ((_X,),)),
    ("isfinite", function("torch.isfinite", 1), "", ((_X,),)),
    ("logical_not", function("torch.logical_not", 1), "", ((T((4, 6), "bool"),),)),
    ("bitwise_not", _prefix("~"), "", ((T((4, 6), "bool"),),)),
    ("clamp", method("clamp", ("min", None), ("max", None)), "inputs", ((_X, -0.5, 0.5), (_X, None, 0.5))),
    ("clamp_min", method("clamp", ("min", None)), "inputs", ((_X, -0.5),)),
    ("clamp_max", method("clamp", ("max", None)), "inputs", ((_X, 0.5),)),
    ("threshold", function("F.threshold", 3), "inputs", ((_X, 0.1, 0.0),)),
    ("nan_to_num", method("nan_to_num", ("nan", 0.0), ("posinf", None), ("neginf", None)), "inputs", ((_X, 1.0),)),
)


def _samples(*calls: Iterable[object]) -> tuple[Sample, ...]:
    return tuple(Sample(tuple(args)) for args in calls)


for _name, _emit, _saves, _calls in _FUNCTIONS:
    _targets = (f"aten.{_name}.default",)
    register(Op(_name, _targets, "d* -> d*", _unary, _emit, saves=_saves, samples=_samples(*_calls)))

register(
    Op(
        name="gelu",
        targets=("aten.gelu.default",),
        note="d* -> d*",
        rule=_unary,
        emit=function("F.gelu", 1, ("approximate", "none")),
        samples=(Sample((_X,)), Sample((_X,), (("approximate", "tanh"),))),
    )
)
register(Op("neg", ("aten.neg.default",), "d* -> d*", _linear_unary, _prefix("-"), saves="", samples=_samples((_X,))))


def _emit_cast(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """A cast by the dtype of the result, which the several overloads spell differently."""
    wanted = call.results[0].dtype
    if wanted == call.operands[0].dtype:
        return str(args[0])
    return f"{atom(args[0])}.to({literal(Dtype(wanted))})"


def _cast(call: Call) -> Rule:
    """The first operand's elements in another dtype; a second tensor (`type_as`) only lends its dtype."""
    if len(call.operands) > 1:
        raise ValueError("the dtype of another tensor")
    return _linear_unary(call)


register(
    Op(
        name="to",
        targets=("aten._to_copy.default", "aten.to.dtype", "aten.to.dtype_layout", "aten.to.device"),
        note="d* -> d*",
        rule=_cast,
        emit=_emit_cast,
        work="memory",
        saves="",
        samples=(
            Sample((_X,), (("dtype", Dtype("float64")),)),
            Sample((T((4, 6), "bool"), Dtype("float64")), target="aten.to.dtype"),
        ),
    )
)


def _emit_identity(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    return str(args[0])


def _quiet_dropout(call: Call) -> Rule:
    """Dropout that drops nothing. Raises ValueError where it draws random numbers."""
    if call.arg(1, "p", 0.5) and call.arg(2, "train", True) is not False:
        raise ValueError("random numbers")
    return _linear_unary(call)


register(
    Op(
        name="identity",
        targets=(
            "aten.clone.default",
            "aten.alias.default",
            "aten.contiguous.default",
            "aten.lift_fresh_copy.default",
        ),
        note="d* -> d*",
        rule=_linear_unary,
        emit=_emit_identity,
        work="view",
        saves="",
        samples=_samples((_X,)),
    )
)
register(
    Op(
        name="dropout",
        targets=("aten.dropout.default",),
        note="d* -> d*, where it drops nothing",
        rule=_quiet_dropout,
        emit=_emit_identity,
        work="view",
        saves="",
        samples=_samples((_X, 0.0, True), (_X, 0.5, False)),
    )
)
register(
    Op(
        name="detach",
        targets=("aten.detach.default",),
        note="d* -> d*",
        rule=_linear_unary,
        emit=method("detach"),
        work="view",
        saves="",
        samples=_samples((_X,)),
    )
)
