"""What a batch that is divided into micro-batches needs beside the model's own calls (`autopar.partitioner.microbatches`).

share           y = x s                       s = the rows of the micro-batch over those of the whole batch; the sum of all s is 1
sample_count    what a cross entropy divides by: the samples that are not ignored, or the sum of their class weights
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from autopar.ops.record.dim_letters import lettered, named
from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Inner, Op, Sample, T, register
from autopar.ops.record.printing import atom, invoke
from autopar.ops.record.rule import Call, Rule, broadcast, with_linear

if TYPE_CHECKING:
    import torch


def _scaled(call: Call) -> Rule:
    return with_linear(broadcast(call), {0})


def _emit_share(ctx: EmitContext) -> str:
    """``x * p.share``."""
    return f"{atom(ctx.args[0])} * p.share"


register(
    Op(
        name="share",
        targets=("autopar.share",),
        note="d* -> d*",
        rule=_scaled,
        emit=_emit_share,
        saves="",
        samples=(Sample((T((4, 6)),)), Sample((T(()),))),
        means=lambda x: x * 1.0,
    )
)


def _counted(call: Call) -> Rule:
    """A letter per dim of the class indices, summed over; class weights are whole, since an index may be any class."""
    names = named(call.operands[0].shape)
    rule = lettered(call, [names, *((("v",),) for _ in call.operands[1:])], [()], "v")
    return replace(rule, whole={name: frozenset({0}) for (name,) in names})


def _count_sum(call: Call, rule: Rule, letter: str) -> tuple[Inner, ...]:
    return (Inner("all_sum", 8.0, 0.0),) if letter in rule.whole else ()


def _emit_count(ctx: EmitContext) -> str:
    """``sample_count(labels)``; where samples are split, summed over the axes."""
    options = [("weight", ctx.pick(1, "weight"), None), ("ignore_index", ctx.pick(2, "ignore_index", -100), -100)]
    text = invoke("sample_count", ctx.args[:1], options)
    for axis in ctx.axes(*ctx.rule.whole):
        text = f"all_sum({text}, {axis})"
    return text


def _count(target: torch.Tensor, weight: torch.Tensor | None = None, ignore_index: int = -100) -> torch.Tensor:
    """The samples that are not ignored, or the sum of their weights."""
    import torch  # it is not needed to plan

    kept = target != ignore_index
    return kept.sum(dtype=torch.float64) if weight is None else weight.detach().double()[target[kept]].sum()


register(
    Op(
        name="sample_count",
        targets=("autopar.sample_count",),
        note="n*, [v]? -> (a sum over n*)",
        rule=_counted,
        emit=_emit_count,
        work="reduce",
        backward=0.0,
        saves="",
        inner=_count_sum,
        samples=(
            Sample((T((6,), "labels 4"),)),
            Sample((T((4, 3), "labels 4"), T((4,), "positive"))),
            Sample((T((6,), "index 4"), None, 2)),
        ),
        means=_count,
    )
)
