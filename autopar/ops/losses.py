"""Losses. A mean over samples is a sum over a count: each rank yields its addend, local sum / global count.

The class dim is whole. Cross entropy counts the samples that are not ignored inside its distributed form; the count
of an elementwise loss is the number of elements, a literal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autopar.graph import Ref
from autopar.ops.op import Emit, Inner, Local, Op, Sample, T, register
from autopar.ops.rule import Call, Dims, Rule, broadcast
from autopar.ops.text import atom, axes_text, invoke, options, pick

_WORDS = ("none", "mean", "sum")
_MEAN = 1


def _reduction(call: Call, position: int) -> str:
    number = call.arg(position, "reduction", _MEAN)
    assert isinstance(number, int)
    return _WORDS[number]


def _classified(call: Call) -> Rule:
    """x[n, [v], d...] against class indices [n, d...] or probabilities like x; class weights [v]."""
    x, target = call.operands[:2]
    at = 1 if len(x.shape) > 1 else 0
    dims: Dims = tuple((f"d{i}",) if i > at else ("v",) if i == at else ("n",) for i in range(len(x.shape)))
    samples = tuple(names for i, names in enumerate(dims) if i != at)
    extents = {names[0]: n for names, n in zip(dims, x.shape, strict=True)}
    operands = (dims, dims if target.shape == x.shape else samples, *((("v",),) for _ in call.operands[2:]))
    result = samples if _reduction(call, 3) == "none" else ()
    return Rule(operands, (result,), extents, frozenset({"v"}))


def _sample_axes(rule: Rule, local: Local) -> tuple[str, ...]:
    return local.axes(tuple(name for name in rule.extents if name != "v"))


def _emit_cross_entropy(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The plain call where no sample dim is split; otherwise this rank's addend of the mean."""
    axes = _sample_axes(rule, local)
    weight, word = pick(args, kwargs, 2, "weight"), _reduction(call, 3)
    rest = options(args, kwargs, 4, [("ignore_index", -100), ("label_smoothing", 0.0)])
    shared = [("weight", weight, None), *rest]
    if not axes or word != "mean":
        return invoke("F.cross_entropy", args[:2], [*shared, ("reduction", word, "mean")])
    return invoke("cross_entropy", args[:2], [("over", axes_text(axes), None), *shared])


def _count_inner(call: Call, rule: Rule, letter: str) -> tuple[Inner, ...]:
    """One number over the axis: how many samples count."""
    mean = _reduction(call, 3) == "mean" and letter != "v"
    return (Inner("all_sum", 8.0, 0.0),) if mean else ()


def _flops(call: Call, rule: Rule) -> float:
    return 5.0 * call.operands[0].numel


register(
    Op(
        name="cross_entropy",
        targets=("aten.cross_entropy_loss.default",),
        note="n [v] d*, n d*, v? -> (a sum over n d*)",
        rule=_classified,
        emit=_emit_cross_entropy,
        work="reduce",
        flops=_flops,
        inner=_count_inner,
        samples=(
            Sample((T((6, 5)), T((6,), "index 5"))),
            Sample((T((4, 5, 3)), T((4, 3), "index 5"), None, 1, 2)),
            Sample((T((4, 3)), T((4,), "index 3"), T((3,), "positive"), 1, -100, 0.1)),
            Sample((T((4, 3)), T((4,), "index 3"), None, 2)),
            Sample((T((4, 3)), T((4,), "index 3"), None, 0)),
            Sample((T((4, 3)), T((4, 3), "positive"))),
        ),
    )
)


def _nll(call: Call) -> Rule:
    """Raises ValueError for a mean under class weights: its count is a sum of weights."""
    if isinstance(call.arg(2, "weight"), Ref) and _reduction(call, 3) == "mean":
        raise ValueError("a weighted mean")
    return _classified(call)


def _emit_nll(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Where samples are split, the local sum over the count of all samples that are not ignored."""
    axes, word = _sample_axes(rule, local), _reduction(call, 3)
    rest = [("weight", pick(args, kwargs, 2, "weight"), None), *options(args, kwargs, 4, [("ignore_index", -100)])]
    if not axes or word != "mean":
        return invoke("F.nll_loss", args[:2], [*rest, ("reduction", word, "mean")])
    count = f"({atom(args[1])} != {pick(args, kwargs, 4, 'ignore_index', -100)}).sum()"
    for axis in axes:
        count = f"all_sum({count}, {axis})"
    return f"{invoke('F.nll_loss', args[:2], [*rest, ('reduction', 'sum', 'mean')])} / {count}"


register(
    Op(
        name="nll_loss",
        targets=("aten.nll_loss_nd.default", "aten.nll_loss.default", "aten.nll_loss2d.default"),
        note="n [v] d*, n d*, v? -> (a sum over n d*)",
        rule=_nll,
        emit=_emit_nll,
        work="reduce",
        inner=_count_inner,
        samples=(
            Sample((T((6, 5)), T((6,), "index 5"), None, 1, 2)),
            Sample((T((4, 5, 3)), T((4, 3), "index 5"))),
            Sample((T((4, 3)), T((4,), "index 3"), T((3,), "positive"), 2)),
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
        "kl_div", "F.kl_div", 2, 2, (), ((_X, _P), (_X, _P, 2)),
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
            (_X, _P, T((4, 1), "positive"), None, 1), (_X, _P, None, None, 0),
        ),
    ),
)  # fmt: skip


def _elementwise_rule(position: int) -> Any:  # noqa: ANN401
    def rule(call: Call) -> Rule:
        """One letter per dim, aligned from the right; without reduction the result keeps them."""
        longest = max((value.shape for value in call.operands[:2]), key=len)
        shape = tuple(
            max(
                value.shape[i - len(longest)] if i - len(longest) >= -len(value.shape) else 1 for value in call.operands
            )
            for i in range(len(longest))
        )
        full = broadcast(replace(call, results=(replace(call.operands[0], shape=shape),)))
        return full if _reduction(call, position) == "none" else replace(full, results=((),))

    return rule


def _emit_elementwise(name: str, position: int, more: tuple[tuple[int, str, object], ...]) -> Emit:
    def emit(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The local sum over the number of all elements where some dim is split."""
        word = _reduction(call, position)
        rest = [(option, pick(args, kwargs, at, option, default), default) for at, option, default in more]
        rest += [("log_target", kwargs.get("log_target", False), False)]
        if not local.splits or word != "mean":
            return invoke(name, args[:2], [*rest, ("reduction", word, "mean")])
        total = invoke(name, args[:2], [*rest, ("reduction", "sum", "mean")])
        return f"{total} / {math.prod(rule.extents.values())}"

    return emit


def _elementwise_flops(call: Call, rule: Rule) -> float:
    return 3.0 * call.operands[0].numel


for _name, _function, _position, _tensors, _more, _calls in _ELEMENTWISE:
    register(
        Op(
            name=_name,
            targets=(f"aten.{_name}.default",),
            note="d*, d* -> (a sum over d*)",
            rule=_elementwise_rule(_position),
            emit=_emit_elementwise(_function, _position, _more),
            work="reduce",
            flops=_elementwise_flops,
            samples=tuple(Sample(args) for args in _calls),
        )
    )
