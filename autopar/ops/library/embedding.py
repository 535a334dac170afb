"""Embedding: rows of a table by index. The features and the indices' dims are free, and so are the rows themselves.

Where the rows (a vocabulary) are split, each rank looks up those that it holds and has zeros for all others: the result
is a partial sum (`autopar.runtime.functional.embedding`).
"""

from __future__ import annotations

from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Op, Sample, T, register
from autopar.ops.record.printing import invoke
from autopar.ops.record.rule import Call, Rule, letters, with_linear


def _embedding(call: Call) -> Rule:
    """y[b, d] = w[i[b], d]; linear in the table."""
    if call.arg(3, "scale_grad_by_freq", False) or call.arg(4, "sparse", False):
        raise ValueError("gradients that count, or are sparse")
    return with_linear(letters("v d, b* -> b* d", call), {0})


def _emit_embedding(ctx: EmitContext) -> str:
    """The plain call, or this rank's addend where the table's rows are split."""
    padding = ctx.pick(2, "padding_idx", -1)
    rest = [("padding_idx", None if padding < 0 else padding, None), ("over", ctx.positions(("v",)), None)]
    return invoke("embedding" if "v" in ctx.local.splits else "F.embedding", (ctx.args[1], ctx.args[0]), rest)


register(
    Op(
        name="embedding",
        targets=("aten.embedding.default",),
        note="v d, b* -> b* d",
        rule=_embedding,
        emit=_emit_embedding,
        work="memory",
        saves="inputs",
        launches=lambda call, rule, letter: (9, 2) if letter == "v" else (0, 0),
        samples=(Sample((T((7, 4)), T((3, 4), "index 7"))), Sample((T((8, 6)), T((4, 2), "index 8"), 2))),
    )
)
