"""Tensors made from literals: no operand, or one that only lends its shape or dtype.

A filled tensor has a letter per dim: a rank makes its own part. Where the operand's shape is not the result's, its
letters change nothing: the result is whole on every rank whatever is split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopar.graph import Dtype
from autopar.ops.op import Emit, Local, Op, Sample, T, register
from autopar.ops.rule import Call, Dims, Rule
from autopar.ops.text import atom, invoke, literal, sizes

_DEFAULT_DTYPE = "float32"


def _filled(call: Call) -> Rule:
    """One letter per dim of the result; an operand of the same shape has them too."""
    shape = call.results[0].shape
    names: Dims = tuple((f"d{i}",) for i in range(len(shape)))
    extents = {f"d{i}": n for i, n in enumerate(shape)}
    if not call.operands or call.operands[0].shape == shape:
        return Rule(tuple(names for _ in call.operands), (names,), extents)
    lent: Dims = tuple((f"x{i}",) for i in range(len(call.operands[0].shape)))
    given = {f"x{i}": n for i, n in enumerate(call.operands[0].shape)}
    whole = {letter: frozenset({0}) for letter in given}
    return Rule((lent,), (names,), extents | given, whole=whole)


def _one_row(call: Call) -> Rule:
    """No letter: the values depend on the place."""
    shape = call.results[0].shape
    names: Dims = tuple((f"d{i}",) for i in range(len(shape)))
    return Rule((), (names,), {f"d{i}": n for i, n in enumerate(shape)}, frozenset(f"d{i}" for i in range(len(shape))))


def _dtype(call: Call, assumed: str) -> list[tuple[str, object, object]]:
    """``dtype=torch.int64`` where the result's differs from what torch would take."""
    made = call.results[0].dtype
    return [("dtype", Dtype(made) if made != assumed else None, None)]


def _emit_sized(name: str, fill: int | None = None) -> Emit:
    """``torch.zeros(DATA.part(8), 256)``; `fill` is the position of the fill value, which may set the dtype."""

    def emit(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        shape = f"({', '.join(sizes(rule, local, rule.results[0]))}{',' if len(rule.results[0]) == 1 else ''})"
        function = f"{atom(args[0])}.{name}" if name.startswith("new_") else f"torch.{name}"
        inner = shape if fill is None else f"{shape}, {literal(args[fill])}"
        assumed = call.operands[0].dtype if call.operands else _DEFAULT_DTYPE
        if fill is not None and not call.operands:
            assumed = _python_dtype(args[fill])
        (_, dtype, _), *_ = _dtype(call, assumed)
        return f"{function}({inner}{f', dtype={literal(dtype)}' if dtype else ''})"

    return emit


def _python_dtype(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return "int64" if isinstance(value, int) else _DEFAULT_DTYPE


def _emit_like(name: str, fill: int = 0) -> Emit:
    def emit(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        return invoke(f"torch.{name}", args[: 1 + fill], _dtype(call, call.operands[0].dtype))

    return emit


def _emit_literal(name: str) -> Emit:
    def emit(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        whole = all(isinstance(arg, int) for arg in args)
        assumed = "int64" if name == "arange" and whole else _DEFAULT_DTYPE
        return invoke(f"torch.{name}", args, _dtype(call, assumed))

    return emit


def _constant(name: str, targets: tuple[str, ...], rule: Any, emit: Emit, *samples: Sample) -> None:  # noqa: ANN401
    register(Op(name, targets, "-> d*", rule, emit, work="memory", backward=0.0, saves="", samples=samples))


_FLOAT64 = (("dtype", Dtype("float64")),)
_INT64 = (("dtype", Dtype("int64")),)

for _name in ("zeros", "ones", "empty"):
    _targets = (f"aten.{_name}.memory_format",) if _name == "empty" else (f"aten.{_name}.default",)
    _made = (Sample(((4, 6),), _FLOAT64), Sample(((6,),), _INT64), Sample(((),))) if _name != "empty" else ()
    _constant(_name, _targets, _filled, _emit_sized(_name), *_made)
_constant(
    "full",
    ("aten.full.default",),
    _filled,
    _emit_sized("full", 1),
    Sample(((4, 6), 2.5), _FLOAT64),
    Sample(((4,), True)),
)
for _name in ("zeros_like", "ones_like"):
    _constant(
        _name, (f"aten.{_name}.default",), _filled, _emit_like(_name), Sample((T((4, 6)),)), Sample((T((4,)),), _INT64)
    )
_constant("full_like", ("aten.full_like.default",), _filled, _emit_like("full_like", 1), Sample((T((4, 6)), 2.5)))
for _name in ("new_zeros", "new_ones"):
    _constant(
        _name, (f"aten.{_name}.default",), _filled, _emit_sized(_name),
        Sample((T((4, 6)), (4, 6))), Sample((T((4, 6)), (3,)), (("dtype", Dtype("bool")),)), Sample((T((4,)), ())),
    )  # fmt: skip
_constant("new_full", ("aten.new_full.default",), _filled, _emit_sized("new_full", 2), Sample((T((4, 6)), (3, 4), 0.5)))
_constant(
    "arange", ("aten.arange.default", "aten.arange.start", "aten.arange.start_step"), _one_row, _emit_literal("arange"),
    Sample((6,)), Sample((1, 6), _FLOAT64, "aten.arange.start"), Sample((0, 6, 2), target="aten.arange.start_step"),
)  # fmt: skip
_constant("eye", ("aten.eye.default", "aten.eye.m"), _one_row, _emit_literal("eye"), Sample((4,), _FLOAT64))
_constant("linspace", ("aten.linspace.default",), _one_row, _emit_literal("linspace"), Sample((0.0, 1.0, 5), _FLOAT64))
_constant("scalar_tensor", ("aten.scalar_tensor.default",), _one_row, _emit_literal("tensor"), Sample((2.5,), _FLOAT64))
