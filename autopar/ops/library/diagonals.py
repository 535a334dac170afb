"""Diagonals of the last, or of any, two dims: triangles above or below one, reading one, writing one.

    tril        y[b, m, n] = x[b, m, n] if n - m <= d else 0       a part of the rows or columns has another diagonal
    diagonal    y[a, i] = x[a, i, i + d]                           both dims are whole

A part that begins at row r and column c of the whole has the diagonal d + r - c.
"""

from __future__ import annotations

from autopar.ops.record.dim_letters import lettered, named
from autopar.ops.record.emit_context import EmitContext, method
from autopar.ops.record.op import Sample, T, memory
from autopar.ops.record.printing import atom, invoke
from autopar.ops.record.rule import Call, Rule, normal_dim, with_linear
from autopar.ops.record.windows import by_place


def _triangle(call: Call) -> Rule:
    """Rows and columns know their place: the diagonal of a part is another."""
    names = named(call.operands[0].shape)
    return by_place(with_linear(lettered(call, [names], [names]), {0}), [names[-2][0], names[-1][0]])


def _emit_triangle(ctx: EmitContext) -> str:
    """``x.tril()``, or ``x.tril(DATA.start(16))`` of a part that begins at that row."""
    (row,), (column,) = ctx.rule.operands[0][-2:]
    diagonal = ctx.pick(1, "diagonal", 0)
    down, right = ctx.start(row), ctx.start(column)
    text = " + ".join([*([str(diagonal)] if diagonal else []), *([down] if down else [])])
    text += f" - {right}" if right and text else f"-{right}" if right else ""
    return f"{atom(ctx.args[0])}.{ctx.call.function}({text})"


memory(
    "triangle", ("aten.tril.default", "aten.triu.default"), "b* m n -> b* m n", _triangle, _emit_triangle,
    Sample((T((2, 4, 4)),)), Sample((T((4, 3, 3)), 1), target="aten.triu.default"),
    Sample((T((4, 6)), -2)), Sample((T((6, 4)), -1), target="aten.triu.default"),
)  # fmt: skip


def _diagonal(call: Call) -> Rule:
    """Two dims become one behind the others; all three are whole."""
    gone = [call.dim(2 + i, i, f"dim{i + 1}") for i in (0, 1)]
    names = named(call.operands[0].shape)
    kept = tuple(name for i, name in enumerate(names) if i not in gone)
    return with_linear(lettered(call, [names], [(*kept, ("y",))], {"y", *(f"d{i}" for i in gone)}), {0})


def _emit_diagonal(ctx: EmitContext) -> str:
    options = [ctx.pick(1 + i, name, i - (i > 0)) for i, name in enumerate(("offset", "dim1", "dim2"))]
    return invoke(f"{atom(ctx.args[0])}.diagonal", options)


def _diag_embed(call: Call) -> Rule:
    """The last dim on the diagonal of two new ones."""
    shape, result = call.operands[0].shape, call.results[0].shape
    new = sorted(normal_dim(call.arg(2 + i, f"dim{i + 1}", i - 2), len(result)) for i in (0, 1))
    names = named(shape)
    rest = iter(names[:-1])
    after = tuple((f"y{new.index(i)}",) if i in new else next(rest) for i in range(len(result)))
    return with_linear(lettered(call, [names], [after], {*names[-1], "y0", "y1"}), {0})


def _emit_diag_embed(ctx: EmitContext) -> str:
    options = [ctx.pick(1 + i, name, (0, -2, -1)[i]) for i, name in enumerate(("offset", "dim1", "dim2"))]
    return invoke("torch.diag_embed", (ctx.args[0], *options))


memory(
    "diagonal", ("aten.diagonal.default",), "a* [m] [n] -> a* [y]", _diagonal, _emit_diagonal,
    Sample((T((4, 4)), 1)), Sample((T((3, 6, 4)), 0, 0, 2)),
)  # fmt: skip
memory(
    "diag_embed", ("aten.diag_embed.default",), "a* [n] -> a* [m] [m]", _diag_embed, _emit_diag_embed,
    Sample((T((4, 3)),)), Sample((T((6, 3)), 1, 0, 2)),
)  # fmt: skip


memory(
    "trace", ("aten.trace.default",), "[m] [n] ->",
    lambda call: with_linear(lettered(call, [named(call.operands[0].shape)], [()], ("d0", "d1")), {0}),
    method("trace"), Sample((T((4, 6)),)),
)  # fmt: skip
