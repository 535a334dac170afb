"""Scaled dot product attention over batch and head dims.

    y[b, t, f] = sum_s softmax_s(scale * q[b, t, e] k[b, s, e] + mask[b, t, s]) v[b, s, f]

e is whole. Query rows t are independent of one another; the causal mask has to know which rows these are. Where keys s
are split, each rank attends to its own, and the results, weighted by what each rank's scores sum up to, add up
(`autopar.runtime.functional.attention`). Grouped heads: the query's heads are ``(h r)`` for h heads of keys and values.

Random numbers (dropout) are drawn for the scores [b*, t, s], by their places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from autopar.ir.graph import ITEMSIZE
from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Inner, Op, Sample, T, register
from autopar.ops.record.printing import invoke
from autopar.ops.record.rule import Call, Dims, Rule, with_linear


def _attention(call: Call) -> Rule:
    """Batch dims of keys and values that have extent 1 are broadcast. Raises ValueError where they differ otherwise."""
    q, k, v = (value.shape for value in call.operands[:3])
    grouped = bool(dict(call.node.kwargs).get("enable_gqa")) and q[-3] != k[-3]
    batch = tuple(f"b{i}" for i in range(len(q) - 2))
    extents = dict(zip(batch, q[:-2], strict=True)) | {"t": q[-2], "s": k[-2], "e": q[-1], "f": v[-1]}
    queries: Dims = tuple((name,) for name in batch)
    if grouped:
        extents |= {batch[-1]: k[-3], "r": q[-3] // k[-3]}
        queries = (*queries[:-1], (batch[-1], "r"))
    outer = [_aligned(shape[:-2], batch, extents) for shape in (k, v)]
    operands: list[Dims] = [(*queries, ("t",), ("e",)), (*outer[0], ("s",), ("e",)), (*outer[1], ("s",), ("f",))]
    if len(call.operands) == 4:
        operands.append(_mask(call.operands[3].shape, (*queries, ("t",), ("s",)), extents))
    rule = Rule(tuple(operands), ((*queries, ("t",), ("f",)),), extents, frozenset({"e"}))
    return with_linear(rule, {2})


def _aligned(shape: tuple[int, ...], names: tuple[str, ...], extents: Mapping[str, int]) -> Dims:
    """The batch dims of keys or values."""
    aligned = names[len(names) - len(shape) :]
    if any(n not in (1, extents[name]) for name, n in zip(aligned, shape, strict=True)):
        raise ValueError("attention whose batches differ")
    return tuple((name,) if n == extents[name] else () for name, n in zip(aligned, shape, strict=True))


def _mask(shape: tuple[int, ...], full: Dims, extents: Mapping[str, int]) -> Dims:
    """The mask's dims, aligned from the right; those of extent 1 are broadcast."""
    aligned = full[len(full) - len(shape) :]
    return tuple(
        names if n == math.prod(extents[name] for name in names) else ()
        for names, n in zip(aligned, shape, strict=True)
    )


def _emit_attention(ctx: EmitContext) -> str:
    """The plain call where it knows all that it needs; else the distributed form, told the places of rows and keys."""
    table = ctx.options(3, [("attn_mask", None), ("dropout_p", 0.0), ("is_causal", False)])
    table += [("scale", ctx.kwargs.get("scale"), None), ("enable_gqa", bool(ctx.kwargs.get("enable_gqa")), False)]
    scores = (*ctx.rule.results[0][:-1], ("s",))
    if not _dropout(ctx.call):
        counted = ("t", "s") if _causal(ctx.call) else ("s",)
        scores = tuple(names if set(names) & set(counted) else () for names in scores)
    over = ctx.all_positions(scores)
    if over is None and not _dropout(ctx.call) and not _split_with_learned_mask(ctx):
        return invoke("F.scaled_dot_product_attention", ctx.args[:3], table)
    return invoke("attention", ctx.args[:3], [*table, ("over", over, None)])


def _split_with_learned_mask(ctx: EmitContext) -> bool:
    """Whether a rank may be without rows whose mask has a gradient: torch has none then, and others may wait for it."""
    learned = len(ctx.call.operands) == 4 and ctx.call.operands[3].differentiable
    return learned and any(ctx.axes(*names) for names in ctx.rule.results[0])


def _causal(call: Call) -> bool:
    return call.arg(5, "is_causal", False) is True


def _dropout(call: Call) -> bool:
    return bool(call.arg(4, "dropout_p", 0.0))


def _flops(call: Call, rule: Rule) -> float:
    """Two products of t x s per head; half of it where the mask is causal."""
    q, v = call.operands[0], call.operands[2]
    points = math.prod(q.shape[:-1]) * v.shape[-2] * (q.shape[-1] + v.shape[-1])
    return 2.0 * points * (0.5 if _causal(call) else 1.0)


def _skew(call: Call, rule: Rule, letter: str, low: Fraction, high: Fraction) -> float:
    """Under a causal mask the last rows, and the first keys, have most to do; the scores are not divided by splitting f."""
    if letter in ("t", "s") and _causal(call):
        return float(low + high if letter == "t" else 2 - low - high)
    if letter == "f" and high > low:
        e, f = rule.extents["e"], rule.extents["f"]
        return float((e / (high - low) + f) / (e + f))
    return 1.0


def _launches(call: Call, rule: Rule, letter: str) -> tuple[int, int]:
    """Where rows or keys have to know their place: about ten per 128 query rows, and a few for all."""
    if letter != "s" and not (letter == "t" and _causal(call)):
        return 0, 0
    chunks = -(-rule.extents["t"] // 128)
    return 8 + 10 * chunks, 4 + 12 * chunks


def _inner(call: Call, rule: Rule, letter: str) -> tuple[Inner, ...]:
    """Where keys are split, one number per query row forward, and one back."""
    if letter != "s":
        return ()
    q = call.operands[0]
    size = float(math.prod(q.shape[:-1]) * max(4, ITEMSIZE[q.dtype]))
    return (Inner("all_sum", size, size, tuple(name for names in rule.operands[0][:-1] for name in names)),)


_Q, _K = T((2, 4, 3, 2)), T((2, 4, 5, 2))
_FEW = T((2, 2, 4, 2))

register(
    Op(
        name="attention",
        targets=("aten.scaled_dot_product_attention.default",),
        note="b* t [e], b* s [e], b* s f, (b* t s)? -> b* t f",
        rule=_attention,
        emit=_emit_attention,
        work="attention",
        flops=_flops,
        backward=2.5,
        inner=_inner,
        skew=_skew,
        launches=_launches,
        random=True,
        unless=lambda call: not _dropout(call),
        samples=(
            Sample((_Q, _Q, _Q, None, 0.0, True)),
            Sample((_Q, _K, _K), (("scale", 0.3),)),
            Sample((_Q, _K, _K, T((2, 1, 3, 5)))),
            Sample((_Q, _K, T((2, 4, 5, 3)), T((3, 5), "mask"))),
            Sample((T((2, 4, 4, 2)), _FEW, _FEW, None, 0.0, True), (("enable_gqa", True),)),
            Sample((T((4, 3, 2)), T((4, 5, 2)), T((4, 5, 2)))),
            Sample((T((2, 6, 3, 2)), T((2, 2, 5, 2)), T((2, 2, 5, 2)), T((1, 6, 3, 5))), (("enable_gqa", True),)),
            Sample((_Q, _K, _K, T((2, 1, 1, 5), "mask"), 0.4)),
            Sample((T((2, 4, 4, 2)), _FEW, _FEW, None, 0.3, True), (("enable_gqa", True), ("scale", 0.7))),
            Sample((T((4, 3, 2)), T((1, 6, 2)), T((1, 6, 2)), None, 0.0, True)),
            Sample((T((4, 2)), T((6, 2)), T((6, 2)))),
        ),
    )
)
