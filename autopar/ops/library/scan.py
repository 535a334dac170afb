"""Running sums and products along one dim.

    cumsum   y[a, d] = sum over e <= d of x[a, e]      d may be split: `autopar.runtime.cumsum` adds what came before

The dim of the others is whole.
"""

from __future__ import annotations

from autopar.ir.graph import Dtype
from autopar.ops.library.sorting import along
from autopar.ops.record.dim_letters import lettered, named
from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Inner, Op, Sample, T, memory, register
from autopar.ops.record.printing import atom, invoke, literal
from autopar.ops.record.rule import Call, Rule, floating, with_linear
from autopar.ops.record.windows import by_place

_X = T((4, 6))


def _cumsum(call: Call) -> Rule:
    names = named(call.operands[0].shape)
    rule = lettered(call, [names], [names])
    if names:
        rule = by_place(rule, [f"d{call.dim(1, -1)}"])
    return with_linear(rule, {0}) if floating(call.operands[0]) else rule


def _emit_cumsum(ctx: EmitContext) -> str:
    """``x.cumsum(1)``, or ``cumsum(x, 1, MODEL)`` where that dim is split."""
    dim, axis = ctx.call.dim(1, -1), ctx.axis(f"d{ctx.call.dim(1, -1)}")
    dtype = [("dtype", ctx.pick(2, "dtype"), None)]
    if axis:
        return f"cumsum({ctx.args[0]}, {dim}, {axis}{f', dtype={literal(dtype[0][1])}' if dtype[0][1] else ''})"
    return invoke(f"{atom(ctx.args[0])}.cumsum", (dim,), dtype)


def _totals(call: Call, rule: Rule, letter: str) -> tuple[Inner, ...]:
    """The sums of the ranks' rows, both ways."""
    if letter not in rule.windows:
        return ()
    value = call.results[0]
    size = float(value.nbytes / value.shape[call.dim(1, -1)])
    others = tuple(name for (name,) in rule.results[0] if name != letter)
    return (Inner("all_sum", size, size if value.differentiable else 0.0, others),)


register(
    Op(
        name="cumsum",
        targets=("aten.cumsum.default",),
        note="a d b -> a d b",
        rule=_cumsum,
        emit=_emit_cumsum,
        work="reduce",
        saves="",
        inner=_totals,
        samples=(
            Sample((_X, 1)),
            Sample((T((4, 6), "index 5"), -1)),
            Sample((T((4, 6), "bool"), 0)),
            Sample((T((4, 6), "index 5"), 0), (("dtype", Dtype("int32")),)),
        ),
    )
)


def _emit_whole(ctx: EmitContext) -> str:
    dtype = [("dtype", ctx.pick(2, "dtype"), None)]
    return invoke(f"{atom(ctx.args[0])}.{ctx.call.function}", (ctx.call.dim(1, -1),), dtype)


for _name in ("cumprod", "logcumsumexp"):
    register(
        Op(
            _name, (f"aten.{_name}.default",), "a [d] b -> a d b", lambda call: along(call, 1), _emit_whole, work="reduce",
            samples=(Sample((_X, 1)),),
        )
    )  # fmt: skip


def _diff(call: Call) -> Rule:
    """Differences of neighbours along one dim, which is whole, also of what is put before and behind."""
    shape, dim, count = call.operands[0].shape, call.dim(2, -1), len(call.operands)
    before = [named(shape, {dim: f"e{i}"}) for i in range(count)]
    rule = lettered(call, before, [named(shape, {dim: "y"})], {"y", *(f"e{i}" for i in range(count))})
    return with_linear(rule, range(count)) if all(map(floating, call.operands)) else rule


def _emit_diff(ctx: EmitContext) -> str:
    dim = ctx.call.dim(2, -1)
    rest = [("prepend", ctx.pick(3, "prepend"), None), ("append", ctx.pick(4, "append"), None)]
    return invoke("torch.diff", (ctx.args[0],), [("n", ctx.pick(1, "n", 1), 1), ("dim", dim, None), *rest])


memory(
    "diff", ("aten.diff.default",), "a [d] b -> a [y] b", _diff, _emit_diff,
    Sample((_X,)), Sample((_X, 1, 0, T((1, 6)))), Sample((T((4, 6), "index 9"), 1, -1)),
)  # fmt: skip
