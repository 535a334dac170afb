"""Affine maps of the last dim: ``torch.nn.Linear``, and the form with the weight the other way round that GPT-2 uses.

    linear  y[b, n] = sum_k x[b, k] w[n, k] + bias[n]
    affine  y[b, n] = sum_k x[b, k] w[k, n] + bias[n]

Where k is split, every rank has an addend of the sum, and the bias is added on one rank.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from autopar.ops.record.emit_context import EmitContext, function
from autopar.ops.record.op import Sample, T, contraction
from autopar.ops.record.printing import atom
from autopar.ops.record.rule import Call, Rule, letters, with_linear

if TYPE_CHECKING:
    import torch


def biased(rule: Rule) -> Rule:
    """A product of operands 0 and 1, plus operand 2 if there is one: jointly linear in a factor and that bias."""
    if len(rule.operands) == 3:
        return replace(with_linear(rule, {0, 2}, {1, 2}), addends=frozenset({2}))
    return with_linear(rule, {0}, {1})


def _linear(call: Call) -> Rule:
    """The weight is [n, k]."""
    return biased(letters("b* k, n k, n? -> b* n", call))


contraction(
    "linear",
    ("aten.linear.default",),
    "b* k, n k, n? -> b* n",
    _linear,
    function("F.linear", 3),
    Sample((T((5, 6)), T((4, 6)), T((4,)))),
    Sample((T((3, 5, 6)), T((4, 6)), None)),
    Sample((T((3, 4)), T((8, 4)), T((8,), "constant"))),
)


def _affine(call: Call) -> Rule:
    """The weight is [k, n]."""
    return biased(letters("b* k, k n, n? -> b* n", call))


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x[..., k] @ weight[k, n] + bias[n]."""
    return x @ weight if bias is None else x @ weight + bias


def _emit_affine(ctx: EmitContext) -> str:
    product = f"{atom(ctx.args[0])} @ {atom(ctx.args[1])}"
    return f"{product} + {atom(ctx.args[2])}" if len(ctx.args) > 2 and ctx.args[2] is not None else product


contraction(
    "affine",
    ("autopar.affine",),
    "b* k, k n, n? -> b* n",
    _affine,
    _emit_affine,
    Sample((T((3, 4, 6)), T((6, 8)), T((8,)))),
    Sample((T((5, 6)), T((6, 4)), None)),
    Sample((T((5, 6)), T((6, 4)), T((4,), "constant"))),
    means=_product,
)
