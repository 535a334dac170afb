"""Tensors made from literals: no operand, or one that only lends its shape or dtype.

A filled tensor has a letter per dim: a rank makes its own part. Where the operand's shape is not the result's, its
letters change nothing: the result is whole on every rank whatever is split.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autopar.ir.graph import Dtype
from autopar.ops.record.dim_letters import lettered, named
from autopar.ops.record.emit_context import Emit, EmitContext
from autopar.ops.record.op import Op, Sample, T, register, view
from autopar.ops.record.printing import Expr, atom, invoke
from autopar.ops.record.rule import Call, Rule
from autopar.ops.record.windows import by_place

_DEFAULT_DTYPE = "float32"


def _filled(call: Call) -> Rule:
    """One letter per dim of the result; an operand of the same shape has them too."""
    names = named(call.results[0].shape)
    if not call.operands or call.operands[0].shape == call.results[0].shape:
        return lettered(call, [names] * len(call.operands), [names])
    lent = named(call.operands[0].shape, prefix="x")
    return replace(lettered(call, [lent], [names]), whole={letter: frozenset({0}) for (letter,) in lent})


def _one_row(call: Call) -> Rule:
    """No letter: the values depend on the place."""
    names = named(call.results[0].shape)
    return lettered(call, [], [names], (name for (name,) in names))


def _dtype(call: Call, assumed: str) -> list[tuple[str, object, object]]:
    """``dtype=torch.int64`` where the result's differs from what torch would take."""
    dtype = call.results[0].dtype
    return [("dtype", Dtype(dtype) if dtype != assumed else None, None)]


def _emit_sized(name: str, fill: int | None = None) -> Emit:
    """``torch.zeros(DATA.part(8), 256)``; `fill` is the position of the fill value, which may set the dtype."""

    def emit(ctx: EmitContext) -> str:
        function = f"{atom(ctx.args[0])}.{name}" if name.startswith("new_") else f"torch.{name}"
        arguments = (ctx.shape(),) if fill is None else (ctx.shape(), ctx.args[fill])
        assumed = ctx.call.operands[0].dtype if ctx.call.operands else _DEFAULT_DTYPE
        if fill is not None and not ctx.call.operands:
            assumed = _python_dtype(ctx.args[fill])
        return invoke(function, arguments, _dtype(ctx.call, assumed))

    return emit


def _python_dtype(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return "int64" if isinstance(value, int) else _DEFAULT_DTYPE


def _emit_like(name: str, fill: int = 0) -> Emit:
    def emit(ctx: EmitContext) -> str:
        return invoke(f"torch.{name}", ctx.args[: 1 + fill], _dtype(ctx.call, ctx.call.operands[0].dtype))

    return emit


def _counting(call: Call) -> Rule:
    """Whole numbers, one step from each to the next: a rank counts its own."""
    if not all(isinstance(arg, int) for arg in call.node.args):
        return _one_row(call)
    return by_place(_filled(call), ["d0"])


def _emit_arange(ctx: EmitContext) -> str:
    """``torch.arange(16)``, or ``torch.arange(DATA.start(16), DATA.start(16) + DATA.part(16))``."""
    whole = all(isinstance(arg, int) for arg in ctx.args)
    dtype = _dtype(ctx.call, "int64" if whole else _DEFAULT_DTYPE)
    first = ctx.start("d0") if whole else ""
    if not first:
        return invoke("torch.arange", ctx.args, dtype)
    begin, step = ctx.args[0] if len(ctx.args) > 1 else 0, ctx.args[2] if len(ctx.args) > 2 else 1
    rows = ctx.sizes(ctx.rule.results[0])[0]
    scale, shift = (f"{step} * " if step != 1 else ""), (f"{begin} + " if begin else "")
    low = f"{shift}{scale}{first}"
    high = f"{shift}{scale}({first} + {rows})" if scale else f"{low} + {rows}"
    return invoke("torch.arange", (Expr(low), Expr(high), *([step] if step != 1 else [])), dtype)


def _emit_literal(name: str) -> Emit:
    def emit(ctx: EmitContext) -> str:
        whole = all(isinstance(arg, int) for arg in ctx.args)
        assumed = "int64" if name.endswith("_indices") and whole else _DEFAULT_DTYPE
        return invoke(f"torch.{name}", ctx.args, _dtype(ctx.call, assumed))

    return emit


def _constant(name: str, targets: tuple[str, ...], rule: Any, emit: Emit, *samples: Sample) -> None:  # noqa: ANN401
    register(Op(name, targets, "-> d*", rule, emit, work="memory", backward=0.0, saves="", samples=samples))


_FLOAT64 = (("dtype", Dtype("float64")),)
_INT64 = (("dtype", Dtype("int64")),)

for _name in ("zeros", "ones"):
    _constant(
        _name, (f"aten.{_name}.default",), _filled, _emit_sized(_name),
        Sample(((4, 6),), _FLOAT64), Sample(((6,),), _INT64), Sample(((),)),
    )  # fmt: skip


def _emit_empty(ctx: EmitContext) -> str:
    """Nobody reads what stands there: it has no sample."""
    name = ctx.call.function
    emit = _emit_like(name) if name == "empty_like" else _emit_sized(name)
    return emit(ctx)


_EMPTY = ("aten.empty.memory_format", "aten.empty_like.default", "aten.new_empty.default")
_constant("empty", _EMPTY, _filled, _emit_empty)
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
    "arange", ("aten.arange.default", "aten.arange.start", "aten.arange.start_step"), _counting, _emit_arange,
    Sample((6,)), Sample((1, 6), _FLOAT64, "aten.arange.start"), Sample((0, 6, 2), target="aten.arange.start_step"),
    Sample((9, 0, -2), target="aten.arange.start_step"), Sample((0.5, 3.0), _FLOAT64, "aten.arange.start"),
)  # fmt: skip
_constant(
    "eye",
    ("aten.eye.default", "aten.eye.m"),
    _one_row,
    _emit_literal("eye"),
    Sample((4,), _FLOAT64),
    Sample((4, 6), _FLOAT64, "aten.eye.m"),
)
_constant("linspace", ("aten.linspace.default",), _one_row, _emit_literal("linspace"), Sample((0.0, 1.0, 5), _FLOAT64))
_constant(
    "scalar_tensor",
    ("aten.scalar_tensor.default",),
    _one_row,
    _emit_literal("scalar_tensor"),
    Sample((2.5,), _FLOAT64),
    Sample((2,)),
)


def _one_hot(call: Call) -> Rule:
    """A new last dim, of as many classes as are asked for; their number must be."""
    classes = call.arg(1, "num_classes", -1)
    if not isinstance(classes, int) or classes < 1:
        raise ValueError("as many classes as the largest index says")
    names = named(call.operands[0].shape)
    return by_place(lettered(call, [names], [(*names, ("v",))]), ["v"])


def _emit_one_hot(ctx: EmitContext) -> str:
    """``F.one_hot(x, 8)``, and of its classes this rank's where they are split."""
    text = f"F.one_hot({ctx.args[0]}, {ctx.rule.extents['v']})"
    if ctx.place("v"):
        return f"{text}.narrow(-1, {ctx.start('v')}, {ctx.local.extent['v']})"
    return text


register(
    Op(
        "one_hot", ("aten.one_hot.default",), "d* -> d* v", _one_hot, _emit_one_hot, work="memory", backward=0.0,
        saves="", samples=(Sample((T((4, 6), "index 5"), 5)), Sample((T((6,), "index 4"), 4))),
    )
)  # fmt: skip


def _meshgrid(call: Call) -> Rule:
    """Every result has the letters of all operands."""
    names = [f"m{i}" for i in range(len(call.operands))]
    turned = dict(call.node.kwargs).get("indexing") == "xy"
    order = [*names[1::-1], *names[2:]] if turned else names
    operands = [named(value.shape, {0: name}) for name, value in zip(names, call.operands, strict=True)]
    return lettered(call, operands, [tuple((name,) for name in order)] * len(call.results))


def _emit_meshgrid(ctx: EmitContext) -> str:
    return invoke("torch.meshgrid", ctx.args[0], [("indexing", ctx.kwargs.get("indexing", "ij"), None)])


view(
    "meshgrid",
    ("aten.meshgrid.default", "aten.meshgrid.indexing"),
    "m, n -> m n, m n",
    _meshgrid,
    _emit_meshgrid,
    Sample(((T((4,)), T((6,))),)),
    Sample(((T((4,)), T((6,))),), (("indexing", "ij"),), "aten.meshgrid.indexing"),
    Sample(((T((4,)), T((6,))),), (("indexing", "xy"),), "aten.meshgrid.indexing"),
)
for _name, _sample in (
    ("hann_window", (5,)), ("hamming_window", (5,)), ("blackman_window", (5,)), ("tril_indices", (4, 3)),
    ("triu_indices", (4, 3, 1)),
):  # fmt: skip
    _constant(_name, (f"aten.{_name}.default",), _one_row, _emit_literal(_name), Sample(_sample))
_constant("logspace", ("aten.logspace.default",), _one_row, _emit_literal("logspace"), Sample((0.0, 1.0, 5), _FLOAT64))
