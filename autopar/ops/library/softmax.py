"""Softmax and its logarithm, ``b* v -> b* v``.

    y = exp(x - m) / s        m the largest element along v, s the sum of exp(x - m)

Over a split v each is a distributed form of `autopar.runtime`: two numbers per vector travel.
"""

from __future__ import annotations

import math
from dataclasses import replace

from autopar.ir.graph import ITEMSIZE, Dtype
from autopar.ops.record.emit_context import Emit, EmitContext
from autopar.ops.record.op import Inner, Op, Sample, T, per_element, register
from autopar.ops.record.printing import invoke
from autopar.ops.record.rule import Call, Rule, letters


def _softmax(call: Call) -> Rule:
    """Every dim may be split; over the one that is normalised, sums run inside."""
    ndim = len(call.operands[0].shape)
    if ndim == 0:
        raise ValueError("a softmax of one number")
    dim = call.dim(1)
    names = " ".join("v" if i == dim else f"b{i}" for i in range(ndim))
    return replace(letters(f"{names} -> {names}", call), whole={"v": frozenset()})


def _emit(name: str) -> Emit:
    def emit(ctx: EmitContext) -> str:
        extra = ctx.options(2, [("dtype", None)]) if "int" in ctx.call.node.target else []
        return invoke(name if ctx.over() else f"F.{name}", ctx.args[:2], [("over", ctx.over(), None), *extra])

    return emit


def _inner(call: Call, rule: Rule, letter: str) -> tuple[Inner, ...]:
    """The largest row and the sum of powers of every vector forward, one sum backward."""
    if letter != "v":
        return ()
    others = tuple(name for (name,) in rule.results[0] if name != "v")
    size = float(max(4, ITEMSIZE[call.results[0].dtype]) * math.prod(rule.extents[name] for name in others))
    return (Inner("all_sum", 2 * size, size, others),)


for _name in ("softmax", "log_softmax"):
    register(
        Op(
            name=_name,
            targets=(f"aten.{_name}.int", f"aten._{_name}.default"),
            note="b* v -> b* v",
            rule=_softmax,
            emit=_emit(_name),
            work="reduce",
            flops=per_element(5),
            saves="output",
            inner=_inner,
            samples=(
                Sample((T((3, 4, 6)), -1)),
                Sample((T((4, 6)), 0)),
                Sample((T((5, 4), "bfloat16"), 1)),
                Sample((T((3, 4), "float32"), 1, Dtype("float64"))),
                Sample((T((4, 6)), 1, False), target=f"aten._{_name}.default"),
            ),
        )
    )
