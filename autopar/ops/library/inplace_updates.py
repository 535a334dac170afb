"""Tensors written over others, as capture makes of ``x[:, 0] = y``: copy, fill, select_scatter, slice_scatter.

copy             y[d] = src[d], broadcast          x lends its shape and its dtype
fill             y[d] = v
select_scatter   y = x, but y[a, i, b] = src[a, b]           the dim that i counts is whole
slice_scatter    y = x, but y[a, i:j, b] = src[a, :, b]      the dim that is sliced is whole
"""

from __future__ import annotations

from autopar.ir.graph import Dtype, Ref
from autopar.ops.record.dim_letters import lettered, named, pointwise
from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Sample, T, memory
from autopar.ops.record.printing import atom, invoke, literal
from autopar.ops.record.rule import Call, Rule, broadcast, floating, with_linear

_X = T((4, 6))
_FIXED = T((4, 6), "constant")  # torch knows no gradient of copy, which functionalization alone makes


def _emit_copy(ctx: EmitContext) -> str:
    """Operand 1 in the shape and dtype of the result."""
    source, value, result = ctx.args[1], ctx.call.operands[1], ctx.call.results[0]
    text = literal(source)
    if value.dtype != result.dtype:
        text = f"{atom(source)}.to({literal(Dtype(result.dtype))})"
    if value.shape == result.shape:
        return text
    base = text if text.endswith(")") else atom(source)
    return f"{base}.expand({', '.join(ctx.sizes(ctx.rule.results[0]))})"


def _fill(call: Call) -> Rule:
    """A number, or a tensor without dims."""
    return pointwise({0, 1})(call) if isinstance(call.node.args[1], Ref) else broadcast(call)


def _emit_fill(ctx: EmitContext) -> str:
    if len(ctx.call.operands) == 1:
        return f"torch.full_like({ctx.args[0]}, {literal(ctx.args[1])})"
    return _emit_copy(ctx)


memory(
    "copy", ("aten.copy.default",), "d*, d* -> d*", pointwise({0, 1}), _emit_copy,
    Sample((_FIXED, _FIXED)), Sample((_FIXED, T((6,), "constant"))), Sample((_FIXED, T((4, 1), "index 9"))),
    Sample((T((4, 6), "index 9"), T((4, 6), "index 9"))),
)  # fmt: skip
memory(
    "fill", ("aten.fill.Scalar", "aten.fill.Tensor"), "d*, v? -> d*", _fill, _emit_fill,
    Sample((_X, 2.5)), Sample((_X, T(())), target="aten.fill.Tensor"),
    Sample((T((4, 6), "index 9"), T((), "index 9")), target="aten.fill.Tensor"),
)  # fmt: skip


def _scattered(call: Call) -> Rule:
    """The written dim is whole, under another letter in the source of a slice and missing in that of a row."""
    shape, source, dim = call.operands[0].shape, call.operands[1].shape, call.dim(2)
    names, row = named(shape), len(source) < len(shape)
    written = tuple(("s",) if i == dim else name for i, name in enumerate(names) if not row or i != dim)
    rule = lettered(call, [names, written], [names], {f"d{dim}"} if row else {f"d{dim}", "s"})
    return with_linear(rule, {0, 1}) if all(map(floating, call.operands)) else rule


def _emit_select_scatter(ctx: EmitContext) -> str:
    return f"{atom(ctx.args[0])}.select_scatter({ctx.args[1]}, {ctx.call.dim(2)}, {ctx.pick(3, 'index')})"


def _emit_slice_scatter(ctx: EmitContext) -> str:
    """``x.slice_scatter(y, 1, 2, 5)``, the bounds counted from the front."""
    dim, extent = ctx.call.dim(2), ctx.call.operands[0].shape[ctx.call.dim(2)]
    start, stop, step = (ctx.pick(3 + i, name) for i, name in enumerate(("start", "end", "step")))
    first, last, stride = slice(start, stop, step).indices(extent)
    if ctx.call.operands[1].shape == ctx.call.operands[0].shape:
        return str(ctx.args[1])  # everything is written over
    return invoke(f"{atom(ctx.args[0])}.slice_scatter", (ctx.args[1], dim, first, last), [("step", stride, 1)])


memory(
    "select_scatter", ("aten.select_scatter.default",), "a [d] b, a b -> a d b", _scattered, _emit_select_scatter,
    Sample((T((4, 6)), T((4,)), 1, 2)), Sample((T((4, 6, 2)), T((6, 2)), 0, -1)),
)  # fmt: skip
memory(
    "slice_scatter", ("aten.slice_scatter.default",), "a [d] b, a [s] b -> a d b", _scattered, _emit_slice_scatter,
    Sample((T((4, 6)), T((4, 3)), 1, 1, 4)), Sample((T((6, 4)), T((3, 4)), 0, 0, 2**62, 2)),
    Sample((T((6, 4)), T((2, 4)), 0, -2)), Sample((T((4, 6)), T((4, 6)), 1, 0, 2**62)),
)  # fmt: skip
