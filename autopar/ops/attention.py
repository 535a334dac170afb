"""Scaled dot product attention over batch and head dims.

    y[b, t, f] = sum_s softmax_s(scale * q[b, t, e] k[b, s, e] + mask[b, t, s]) v[b, s, f]

s, e and f are whole. Query rows t are independent of one another, and may be split unless the mask is the causal one,
which counts rows from the top. Grouped heads: the query's heads are ``(h r)`` for h heads of keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from autopar.ops.op import Local, Op, Sample, T, register
from autopar.ops.rule import Call, Dims, Rule, with_linear
from autopar.ops.text import invoke, options


def _attention(call: Call) -> Rule:
    """Raises ValueError for dropout, and for batch dims of keys or values that are broadcast."""
    if call.arg(4, "dropout_p", 0.0):
        raise ValueError("random numbers")
    q, k, v = (value.shape for value in call.operands[:3])
    batch = tuple(f"b{i}" for i in range(len(q) - 2))
    grouped = bool(dict(call.node.kwargs).get("enable_gqa")) and q[-3] != k[-3]
    if not grouped and (k[:-2] != q[:-2] or v[:-2] != q[:-2]):
        raise ValueError("attention with broadcast batches")
    extents = dict(zip(batch, k[:-2], strict=True)) | {"t": q[-2], "s": k[-2], "e": q[-1], "f": v[-1]}
    outer: Dims = tuple((name,) for name in batch)
    queries = outer
    if grouped:
        extents["r"] = q[-3] // k[-3]
        queries = (*outer[:-1], (batch[-1], "r"))
    causal = call.arg(5, "is_causal", False) is True
    frozen = frozenset({"s", "e", "f", "r", "t"} if causal else {"s", "e", "f", "r"})
    operands: list[Dims] = [(*queries, ("t",), ("e",)), (*outer, ("s",), ("e",)), (*outer, ("s",), ("f",))]
    if len(call.operands) == 4:
        operands.append(_mask(call.operands[3].shape, (*queries, ("t",), ("s",)), extents))
    rule = Rule(tuple(operands), ((*queries, ("t",), ("f",)),), extents, frozen)
    return with_linear(rule, {2})


def _mask(shape: tuple[int, ...], full: Dims, extents: Mapping[str, int]) -> Dims:
    """The mask's dims, aligned from the right; those of extent 1 are broadcast."""
    aligned = full[len(full) - len(shape) :]
    return tuple(
        names if n == math.prod(extents[name] for name in names) else ()
        for names, n in zip(aligned, shape, strict=True)
    )


def _emit_attention(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    table = options(args, kwargs, 3, [("attn_mask", None), ("dropout_p", 0.0), ("is_causal", False)])
    table += [("scale", kwargs.get("scale"), None), ("enable_gqa", bool(kwargs.get("enable_gqa")), False)]
    return invoke("F.scaled_dot_product_attention", args[:3], table)


def _flops(call: Call, rule: Rule) -> float:
    """Two products of t x s per head; half of it where the mask is causal."""
    q, v = call.operands[0], call.operands[2]
    points = math.prod(q.shape[:-1]) * v.shape[-2] * (q.shape[-1] + v.shape[-1])
    return 2.0 * points * (0.5 if call.arg(5, "is_causal", False) is True else 1.0)


_Q, _K = T((2, 4, 3, 2)), T((2, 4, 5, 2))

register(
    Op(
        name="attention",
        targets=("aten.scaled_dot_product_attention.default",),
        note="b* t [e], b* [s] [e], b* [s] [f], (b* t [s])? -> b* t f",
        rule=_attention,
        emit=_emit_attention,
        work="attention",
        flops=_flops,
        backward=2.5,
        samples=(
            Sample((_Q, _Q, _Q, None, 0.0, True)),
            Sample((_Q, _K, _K), (("scale", 0.3),)),
            Sample((_Q, _K, _K, T((2, 1, 3, 5)))),
            Sample((_Q, _K, _K, T((3, 5), "bool"))),
            Sample((T((2, 4, 4, 2)), T((2, 2, 4, 2)), T((2, 2, 4, 2)), None, 0.0, True), (("enable_gqa", True),)),
            Sample((T((4, 3, 2)), T((4, 5, 2)), T((4, 5, 2)))),
        ),
    )
)
