"""Losses. A mean over samples is a sum over a count: each rank yields its addend, local sum / global count.

Cross entropy counts the samples that are not ignored inside its distributed form; the count of an elementwise loss is
the number of elements, a literal. The classes (a vocabulary) may be split as well: a rank's addend is then a sum over
its own columns, and one number per sample is exchanged (`autopar.runtime.functional.losses`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from autopar.ir.graph import ITEMSIZE
from autopar.ops.record.dim_letters import joint_shape, lettered, named
from autopar.ops.record.emit_context import Emit, EmitContext
from autopar.ops.record.op import Inner, Op, Sample, T, per_element, register
from autopar.ops.record.printing import invoke, tuple_text
from autopar.ops.record.rule import Call, Rule, broadcast, with_linear

_WORDS = ("none", "mean", "sum")
_MEAN = 1


def _reduction(call: Call, position: int) -> str:
    number = call.arg(position, "reduction", _MEAN)
    if number not in range(len(_WORDS)):
        raise ValueError(f"reduction {number}")
    assert isinstance(number, int)
    return _WORDS[number]


def _classified(call: Call) -> Rule:
    """x[n, v, d...] against class indices [n, d...] or probabilities like x; class weights [v]."""
    x, target = call.operands[:2]
    at = 1 if len(x.shape) > 1 else 0
    dims = named(x.shape, {0: "n", at: "v"})
    samples = dims[:at] + dims[at + 1 :]
    operands = (dims, dims if target.shape == x.shape else samples, *((("v",),) for _ in call.operands[2:]))
    result = samples if _reduction(call, 3) == "none" else ()
    trained = any(value.differentiable for value in call.operands[2:])  # class weights with a gradient: nobody does
    return lettered(call, operands, [result], "v" if trained else "")


def _sample_axes(ctx: EmitContext) -> tuple[str, ...]:
    return ctx.axes(*(letter for letter in ctx.rule.extents if letter != "v"))


def _emit_classified(name: str, more: tuple[tuple[str, object], ...]) -> Emit:
    def emit(ctx: EmitContext) -> str:
        """The plain call where nothing is split that it sums over; otherwise this rank's addend."""
        axes, word = _sample_axes(ctx), _reduction(ctx.call, 3)
        weight, rest = ctx.pick(2, "weight"), ctx.options(4, more)
        shared = [("weight", weight, None), *rest, ("reduction", word, "mean")]
        if "v" not in ctx.local.splits and (not axes or word != "mean"):
            return invoke(f"F.{name}", ctx.args[:2], shared)
        over = tuple_text(axes) if axes and word == "mean" else None
        return invoke(name, ctx.args[:2], [("over", over, None), *shared, ("classes", ctx.positions(("v",)), None)])

    return emit


def _samples(call: Call) -> int:
    """How many samples there are."""
    x = call.operands[0]
    return x.numel // x.shape[1 if len(x.shape) > 1 else 0]


def _cross_entropy_inner(call: Call, rule: Rule, letter: str) -> tuple[Inner, ...]:
    """Over the samples one number, how many count; over the classes one per sample, twice where they are weighted."""
    if letter != "v":
        return (Inner("all_sum", 8.0, 0.0),) if _reduction(call, 3) == "mean" else ()
    samples = tuple(name for name in rule.extents if name != "v")
    size = float(_samples(call) * ITEMSIZE[call.operands[0].dtype])
    weighted = len(call.operands) > 2 or call.operands[1].shape == call.operands[0].shape
    return (Inner("all_sum", size, 0.0, samples),) * (2 if weighted else 1)


register(
    Op(
        name="cross_entropy",
        targets=("aten.cross_entropy_loss.default",),
        note="n v d*, n d*, v? -> (a sum over n v d*)",
        rule=_classified,
        emit=_emit_classified("cross_entropy", (("ignore_index", -100), ("label_smoothing", 0.0))),
        work="reduce",
        flops=per_element(5),
        inner=_cross_entropy_inner,
        launches=lambda call, rule, letter: (14, 6) if letter == "v" else (0, 0),
        samples=(
            Sample((T((6, 5)), T((6,), "index 5"))),
            Sample((T((4, 5, 3)), T((4, 3), "index 5"), None, 1, 2)),
            Sample((T((4, 3)), T((4,), "index 3"), T((3,), "positive"), 1, -100, 0.1)),
            Sample((T((4, 3)), T((4,), "index 3"), None, 2)),
            Sample((T((4, 3)), T((4,), "index 3"), None, 0)),
            Sample((T((4, 3)), T((4, 3), "positive"))),
            Sample((T((6, 4)), T((6,), "labels 4"), T((4,), "positive"))),
            Sample((T((2, 4, 3)), T((2, 4, 3), "positive"), T((4,), "positive"), 1, -100, 0.2)),
            Sample((T((2, 6, 2)), T((2, 2), "labels 6"), None, 0, -100, 0.1)),
            Sample((T((4, 3)), T((4, 3), "unit"), T((3,), "unit"))),
        ),
    )
)


def _nll(call: Call) -> Rule:
    """Linear in the log probabilities."""
    return with_linear(_classified(call), {0})


def _nll_inner(call: Call, rule: Rule, letter: str) -> tuple[Inner, ...]:
    """One number over the axis: how many samples count, or the sum of their weights."""
    mean = _reduction(call, 3) == "mean" and (letter != "v" or len(call.operands) > 2)
    return (Inner("all_sum", 8.0, 0.0),) if mean else ()


register(
    Op(
        name="nll_loss",
        targets=("aten.nll_loss_nd.default", "aten.nll_loss.default", "aten.nll_loss2d.default"),
        note="n v d*, n d*, v? -> (a sum over n v d*)",
        rule=_nll,
        emit=_emit_classified("nll_loss", (("ignore_index", -100),)),
        work="reduce",
        inner=_nll_inner,
        launches=lambda call, rule, letter: (8, 4) if letter == "v" else (0, 0),
        samples=(
            Sample((T((6, 5)), T((6,), "index 5"), None, 1, 2)),
            Sample((T((4, 5, 3)), T((4, 3), "index 5"))),
            Sample((T((4, 3)), T((4,), "index 3"), T((3,), "positive"), 2)),
            Sample((T((6, 4)), T((6,), "labels 4"), T((4,), "positive"))),
            Sample((T((2, 6, 2)), T((2, 2), "labels 6"), None, 0)),
            Sample((T((2, 6, 2, 3)), T((2, 2, 3), "labels 6")), target="aten.nll_loss2d.default"),
        ),
    )
)

# Elementwise losses: ATen name, position of `reduction`, tensors before it, options (position, name, default), samples.
_X, _Y, _P = T((4, 6)), T((4, 6)), T((4, 6), "positive")
_Options = tuple[tuple[int, str, object], ...]
_ELEMENTWISE: tuple[tuple[str, str, int, int, _Options, tuple[tuple[object, ...], ...]], ...] = (
    ("mse_loss", "F.mse_loss", 2, 2, (), ((_X, _Y), (_X, _Y, 2), (_X, _Y, 0))),
    ("l1_loss", "F.l1_loss", 2, 2, (), ((_X, _Y),)),
    ("smooth_l1_loss", "F.smooth_l1_loss", 2, 2, ((3, "beta", 1.0),), ((_X, _Y), (_X, _Y, 1, 0.5))),
    ("huber_loss", "F.huber_loss", 2, 2, ((3, "delta", 1.0),), ((_X, _Y, 1, 0.5),)),
    ("soft_margin_loss", "F.soft_margin_loss", 2, 2, (), ((_X, _P),)),
    (
        "kl_div", "F.kl_div", 2, 2, (), ((_X, _P), (_X, _P, 2), (_X, T((4, 6), "unit"))),
    ),
    (
        "binary_cross_entropy", "F.binary_cross_entropy", 3, 2, ((2, "weight", None),),
        ((T((4, 6), "unit"), T((4, 6), "unit")), (T((4, 6), "unit"), T((4, 6), "unit"), _P, 2)),
    ),
    (
        "binary_cross_entropy_with_logits", "F.binary_cross_entropy_with_logits", 4, 2,
        ((2, "weight", None), (3, "pos_weight", None)),
        (
            (_X, _P), (_X, _P, None, T((6,), "positive")),
            (_X, _P, T((4, 1), "positive"), None, 1), (_X, _P, None, None, 0), (_X, _Y),
        ),
    ),
)  # fmt: skip


def _elementwise_rule(position: int) -> Any:  # noqa: ANN401
    def rule(call: Call) -> Rule:
        """One letter per dim, aligned from the right; without reduction the result keeps them."""
        if call.operands[0].shape != call.operands[1].shape:  # torch.nn.functional broadcasts before it calls
            raise ValueError("a loss of tensors with different shapes")
        shape = joint_shape(value.shape for value in call.operands)
        full = broadcast(replace(call, results=(replace(call.operands[0], shape=shape),)))
        return full if _reduction(call, position) == "none" else replace(full, results=((),))

    return rule


def _emit_elementwise(name: str, position: int, more: tuple[tuple[int, str, object], ...]) -> Emit:
    def emit(ctx: EmitContext) -> str:
        """The local sum over the number of all elements where some dim is split."""
        word = _reduction(ctx.call, position)
        rest = [(option, ctx.pick(at, option, default), default) for at, option, default in more]
        rest += [("log_target", ctx.kwargs.get("log_target", False), False)]
        if not ctx.local.splits or word != "mean":
            return invoke(name, ctx.args[:2], [*rest, ("reduction", word, "mean")])
        total = invoke(name, ctx.args[:2], [*rest, ("reduction", "sum", "mean")])
        return f"{total} / {math.prod(ctx.rule.extents.values())}"

    return emit


for _name, _function, _position, _tensors, _more, _calls in _ELEMENTWISE:
    register(
        Op(
            name=_name,
            targets=(f"aten.{_name}.default",),
            note="d*, d* -> (a sum over d*)",
            rule=_elementwise_rule(_position),
            emit=_emit_elementwise(_function, _position, _more),
            work="reduce",
            flops=per_element(3),
            samples=tuple(Sample(args) for args in _calls),
        )
    )
