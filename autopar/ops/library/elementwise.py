"""Operators of one tensor that treat every element alone: `y[i] = f(x[i])`. Every dim is a letter.

Most are one line of a table. Signs, casts and copies are linear, and let partial sums through.
"""

from __future__ import annotations

import re
from dataclasses import replace

from autopar.ir.graph import Dtype
from autopar.ops.record.dim_letters import pointwise
from autopar.ops.record.emit_context import Emit, EmitContext, function, method, overload
from autopar.ops.record.op import Op, Sample, T, memory, register, view
from autopar.ops.record.printing import atom, invoke, literal
from autopar.ops.record.rule import Call, Rule, broadcast

_X = T((4, 6))
_POSITIVE = T((4, 6), "unit")


def _prefix(symbol: str) -> Emit:
    def emit(ctx: EmitContext) -> str:
        return f"{symbol}{atom(ctx.args[0])}"

    return emit


def _emit_hardtanh(ctx: EmitContext) -> str:
    """torch.nn.functional refuses bounds in the wrong order, which the operator takes."""
    low, high = ctx.pick(1, "min_val", -1.0), ctx.pick(2, "max_val", 1.0)
    if low > high:
        return overload(ctx)
    return invoke("F.hardtanh", ctx.args[:1], [("min_val", low, -1.0), ("max_val", high, 1.0)])


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
    ("hardtanh", _emit_hardtanh, "inputs", ((_X, -0.5, 0.5),)),
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
    ("clip", method("clamp", ("min", None), ("max", None)), "inputs", ((_X, -0.5, 0.5),)),
    ("hardshrink", function("F.hardshrink", 1, ("lambd", 0.5)), "inputs", ((_X,), (_X, 0.2))),
    ("softshrink", function("F.softshrink", 1, ("lambd", 0.5)), "inputs", ((_X,), (_X, 0.2))),
    ("celu", function("F.celu", 1, ("alpha", 1.0)), "inputs", ((_X,), (_X, 0.5))),
    ("logit", function("torch.logit", 1, ("eps", None)), "inputs", ((_POSITIVE,), (_POSITIVE, 1e-3))),
    ("nan_to_num", method("nan_to_num", ("nan", 0.0), ("posinf", None), ("neginf", None)), "inputs", ((_X, 1.0),)),
)


def _pointwise(
    name: str, emit: Emit, saves: str, *samples: Sample, targets: tuple[str, ...] = (), note: str = "d* -> d*"
) -> None:
    targets = targets or (f"aten.{name}.default",)
    register(Op(name, targets, note, broadcast, emit, saves=saves, samples=samples))


for _name, _emit, _saves, _calls in _FUNCTIONS:
    _targets = (f"aten.{_name}.default", *(("aten.special_expit.default",) if _name == "sigmoid" else ()))
    _pointwise(_name, _emit, _saves, *map(Sample, _calls), targets=_targets)

# More functions of torch: name, domain of the sample, what autograd keeps. All are printed ``torch.name(x)``.
_MORE = {
    "acos": "inputs", "acosh": "inputs", "angle": "inputs", "asin": "inputs", "asinh": "inputs", "atanh": "inputs",
    "cosh": "inputs", "deg2rad": "", "digamma": "inputs", "erfc": "inputs", "erfinv": "output", "frac": "",
    "i0": "inputs", "lgamma": "inputs", "log10": "inputs", "rad2deg": "", "sgn": "", "signbit": "", "isneginf": "",
    "isposinf": "", "sinc": "inputs", "sinh": "inputs", "tan": "output", "trunc": "", "positive": "", "conj_physical": "",
    "special_airy_ai": "", "special_bessel_j0": "", "special_bessel_j1": "", "special_bessel_y0": "",
    "special_bessel_y1": "", "special_entr": "inputs", "special_erfcx": "inputs", "special_i0e": "inputs",
    "special_i1": "inputs", "special_i1e": "inputs", "special_log_ndtr": "inputs", "special_modified_bessel_i0": "",
    "special_modified_bessel_i1": "", "special_modified_bessel_k0": "", "special_modified_bessel_k1": "",
    "special_ndtri": "inputs", "special_scaled_modified_bessel_k0": "", "special_scaled_modified_bessel_k1": "",
    "special_spherical_bessel_j0": "",
}  # fmt: skip
_NO_DERIVATIVE = re.compile(r"special_(airy|bessel|modified|scaled|spherical)|signbit|isneginf|isposinf")
for _name, _saves in _MORE.items():
    _printed = f"torch.{_name}" if not _name.startswith("special_") else f"torch.special.{_name[8:]}"
    _kind = "positive" if _NO_DERIVATIVE.match(_name) else "complex" if _name == "acosh" else "unit"
    _pointwise(_name, function(_printed, 1), _saves, Sample((T((4, 6), _kind),)))


for _name, _sample in (("polygamma", (1, _POSITIVE)), ("mvlgamma", (_POSITIVE, 1))):
    _pointwise(_name, function(f"torch.{_name}", 2), "inputs", Sample(_sample))
_pointwise(
    "round_decimals", function("torch.round", 1, ("decimals", 0)), "", Sample((_X,), (("decimals", 1),)),
    targets=("aten.round.decimals",),
)  # fmt: skip
_pointwise(
    "frexp", function("torch.frexp", 1), "inputs", Sample((_X,)), targets=("aten.frexp.Tensor",), note="d* -> d*, d*"
)
_pointwise(
    "gelu", function("F.gelu", 1, ("approximate", "none")), "inputs", Sample((_X,)),
    Sample((_X,), (("approximate", "tanh"),)),
)  # fmt: skip
register(Op("neg", ("aten.neg.default",), "d* -> d*", pointwise({0}), _prefix("-"), saves="", samples=(Sample((_X,)),)))


def _emit_cast(ctx: EmitContext) -> str:
    """A cast by the dtype of the result, which the several overloads spell differently."""
    dtype = ctx.call.results[0].dtype
    if dtype == ctx.call.operands[0].dtype:
        return str(ctx.args[0])
    return f"{atom(ctx.args[0])}.to({literal(Dtype(dtype))})"


def _cast(call: Call) -> Rule:
    """The first operand's elements in another dtype; a second tensor (`type_as`) lends its dtype, and has no letters."""
    rule = pointwise({0})(replace(call, operands=call.operands[:1]))
    lent = tuple(tuple(() for _ in value.shape) for value in call.operands[1:])
    return replace(rule, operands=(*rule.operands, *lent))


memory(
    "to",
    (
        "aten._to_copy.default",
        "aten.to.dtype",
        "aten.to.dtype_layout",
        "aten.to.device",
        "aten.to.other",
        "aten.type_as.default",
    ),
    "d* -> d*",
    _cast,
    _emit_cast,
    Sample((_X,), (("dtype", Dtype("float64")),)),
    Sample((T((4, 6), "bool"), Dtype("float64")), target="aten.to.dtype"),
    Sample((_X, Dtype("float32")), target="aten.to.dtype"),
    Sample((T((4, 6), "index 9"), T((3,))), target="aten.type_as.default"),
    Sample((_X, T((3,), "float32")), target="aten.type_as.default"),
    Sample((_X, T((4, 6), "float32")), target="aten.to.other"),
)


def _emit_identity(ctx: EmitContext) -> str:
    return str(ctx.args[0])


view(
    "identity",
    (
        "aten.alias.default",
        "aten.contiguous.default",
        "aten.lift_fresh_copy.default",
    ),
    "d* -> d*",
    pointwise({0}),
    _emit_identity,
    Sample((_X,)),
)
register(
    Op(
        name="clone",
        targets=("aten.clone.default",),
        note="d* -> d*",
        rule=pointwise({0}),
        emit=method("clone"),
        saves="",
        samples=(Sample((_X,)),),
    )
)
view(
    "detach",
    ("aten.detach.default",),
    "d* -> d*",
    pointwise({0}),
    method("detach"),
    Sample((_X,)),
)
