"""Affine maps: `linear`, matrix products, and the transposed-weight form that Hugging Face's GPT-2 uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autopar.ops.op import Local, Op, Sample, T, register
from autopar.ops.rule import Call, Rule, letters


def _linear(call: Call) -> Rule:
    """y[b, n] = sum_k x[b, k] w[n, k] + bias[n]; linear in x where there is no bias."""
    rule = letters("b* k, n k, n? -> b* n", call)
    return replace(
        rule,
        addends=frozenset({2}),
        linear=(frozenset({0, 2}),) if len(call.operands) == 3 else (frozenset({0}),),
    )


def _emit_linear(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    given = [str(arg) for arg in args if arg is not None]
    return f"F.linear({', '.join(given)})"


register(
    Op(
        name="linear",
        targets=("aten.linear.default",),
        note="b* k, n k, n? -> b* n",
        rule=_linear,
        emit=_emit_linear,
        work="matmul",
        backward=2.0,
        samples=(
            Sample((T((5, 6)), T((4, 6)), T((4,)))),
            Sample((T((3, 5, 6)), T((4, 6)), None)),
        ),
    )
)
