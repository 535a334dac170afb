"""Normalisations. Split over what they normalise, each becomes a distributed form in `autopar.runtime`, with sums inside.

    batch_norm     n c s*, c?, c?, c, c -> n c s*, c, c    statistics over n and s, which come out whole
    group_norm     n (g i) s*, (g i)? ... -> n (g i) s*    over i and s, for every n and g
    instance_norm  n c s*, c?, c? -> n c s*                over s, for every n and c
    layer_norm     b* m*, m*?, m*? -> b* m*                over m, for every b; also rms_norm

Of a letter over which nothing is normalised, every rank runs torch's own function on its part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from autopar.ir.graph import ITEMSIZE, Ref
from autopar.ops.record.dim_letters import lettered, named
from autopar.ops.record.emit_context import Emit, EmitContext
from autopar.ops.record.op import Inner, Op, Sample, T, per_element, register
from autopar.ops.record.printing import Expr, atom, invoke
from autopar.ops.record.rule import Call, Dims, Rule, letters

if TYPE_CHECKING:
    import torch

InnerOf = Callable[[Call, Rule, str], tuple[Inner, ...]]


def _norm(
    name: str,
    targets: tuple[str, ...],
    note: str,
    rule: Callable[[Call], Rule],
    emit: Emit,
    *samples: Sample,
    inner: InnerOf | None = None,
    means: Callable[..., object] | None = None,
) -> None:
    register(
        Op(
            name, targets, note, rule, emit, work="reduce", backward=2.0, flops=per_element(10), samples=samples,
            inner=inner, means=means,
        )
    )  # fmt: skip


def _summed(rule: Rule, names: Sequence[str]) -> Rule:
    """The rule with letters over which its distributed form sums; no result lacks them."""
    return replace(rule, whole=dict.fromkeys(names, frozenset[int]()))


def _two_sums(call: Call, rule: Rule, letter: str) -> tuple[Inner, ...]:
    """Mean and squares of every set of normalised elements forward, in float64, two sums of it backward."""
    if letter not in rule.whole:
        return ()
    kept = tuple(name for dim in rule.operands[0] for name in dim if name not in rule.whole)
    sets = math.prod(rule.extents[name] for name in kept)
    size = float(max(4, ITEMSIZE[call.operands[0].dtype]))
    return (Inner("all_sum", 8.0 * (2 * sets + 1), size * 2 * sets, kept),)


def _one_sum(call: Call, rule: Rule, letter: str) -> tuple[Inner, ...]:
    """The squares of every set forward, one sum backward."""
    size = max(4, ITEMSIZE[call.operands[0].dtype])
    return tuple(
        replace(inner, forward=inner.forward / 16 * size, adjoint=inner.adjoint / 2)
        for inner in _two_sums(call, rule, letter)
    )


def _trailing(call: Call) -> Rule:
    """Normalised over the last dims, as many as `normalized_shape` names; weight and bias have these dims."""
    shape = call.node.args[1]
    assert isinstance(shape, tuple)
    names = [f"m{i}" for i in range(len(shape))]
    inner = " ".join(names)
    count = 3 if "layer_norm" in call.node.target else 2
    operands = ", ".join([f"b* {inner}", f"{inner}?", f"{inner}?"][:count])
    return _summed(letters(f"{operands} -> b* {inner}", call, (0, 2, 3)[:count]), names)


def _emit_trailing(ctx: EmitContext) -> str:
    layer = "layer_norm" in ctx.call.node.target
    name, default = ("layer_norm", 1e-5) if layer else ("rms_norm", None)
    weights = (ctx.pick(2, "weight"), *([ctx.pick(3, "bias")] if layer else []))
    options = [*ctx.options(2 + len(weights), [("eps", default)]), ("over", ctx.over(), None)]
    size = len(ctx.args[1]) if ctx.over() else ctx.args[1]
    return invoke(name if ctx.over() else f"F.{name}", (ctx.args[0], size, *weights), options)


_norm(
    "layer_norm", ("aten.layer_norm.default",), "b* m, m?, m? -> b* m", _trailing, _emit_trailing,
    Sample((T((3, 4, 6)), (6,), T((6,)), T((6,)), 1e-5, False)), Sample((T((4, 2, 3)), (2, 3), None, None, 1e-3)),
    Sample((T((4, 6)), (6,), T((6,)), None)), Sample((T((4, 6)), (6,), None, T((6,)))),
    Sample((T((5, 4), "bfloat16"), (4,), T((4,), "bfloat16"))), inner=_two_sums,
)  # fmt: skip
_norm(
    "rms_norm", ("aten.rms_norm.default",), "b* m, m? -> b* m", _trailing, _emit_trailing,
    Sample((T((3, 4, 6)), (6,), T((6,)))), Sample((T((4, 2, 3)), (2, 3), None, 1e-3)), inner=_one_sum,
)  # fmt: skip


def _group_norm(call: Call) -> Rule:
    """Channels are ``(g i)``: a rank has whole groups, or a part of every group. Raises ValueError for groups of one number."""
    shape, groups = call.operands[0].shape, call.arg(1, "num_groups")
    assert isinstance(groups, int)
    if math.prod(shape[1:]) == groups:
        raise ValueError("groups of one number: torch refuses them in a batch of one")
    space = named(shape[2:], prefix="s")
    dims: Dims = (("n",), ("g", "i"), *space)
    operands = [dims, *((("g", "i"),) for _ in call.operands[1:])]
    rule = lettered(call, operands, [dims], more={"g": groups, "i": shape[1] // groups})
    return replace(_summed(rule, ["i", *(name for (name,) in space)]), filled=frozenset({"g"}))


def _emit_group_norm(ctx: EmitContext) -> str:
    weights = (ctx.pick(2, "weight"), ctx.pick(3, "bias"))
    options = [*ctx.options(4, [("eps", 1e-5)]), ("over", ctx.over(), None)]
    return invoke(
        "group_norm" if ctx.over() else "F.group_norm", (ctx.args[0], Expr(ctx.extent("g")), *weights), options
    )


_norm(
    "group_norm", ("aten.group_norm.default",), "n (g i) s*, (g i)?, (g i)? -> n (g i) s*", _group_norm,
    _emit_group_norm,
    Sample((T((4, 6, 3, 2)), 2, T((6,)), T((6,)), 1e-5)), Sample((T((4, 6)), 3, None, None, 1e-3)),
    Sample((T((2, 4, 5)), 4, T((4,)))), inner=_two_sums,
)  # fmt: skip


def _instance_norm(call: Call) -> Rule:
    """Raises ValueError where running statistics are kept: they would have to be updated.

    And for a bias alone, of which torch's backward knows no rows where a rank has no samples.
    """
    if call.arg(1, "weight") is None and call.arg(2, "bias") is not None:
        raise ValueError("a bias without a weight")
    batch = call.arg(5, "use_input_stats", True) is True
    if batch and isinstance(call.arg(3, "running_mean"), Ref):
        raise ValueError("instance norm with running statistics")
    names = [f"s{i}" for i in range(len(call.operands[0].shape) - 2)]
    space = " ".join(names)
    rule = letters(f"n c {space}, c?, c?, c?, c? -> n c {space}", call)
    return replace(_summed(rule, names if batch else ()), filled=frozenset({"c"}))


def _emit_instance_norm(ctx: EmitContext) -> str:
    weight, bias = ctx.pick(1, "weight"), ctx.pick(2, "bias")
    eps = ctx.options(7, [("eps", 1e-5)])
    if ctx.call.arg(5, "use_input_stats", True) is not True:
        return invoke("F.batch_norm", (ctx.args[0], *ctx.args[3:5], weight, bias), eps)
    if ctx.over() or "n" in ctx.local.splits:  # a group per channel, where torch accepts a rank without samples
        name = "group_norm" if ctx.over() else "F.group_norm"
        return invoke(name, (ctx.args[0], Expr(ctx.extent("c")), weight, bias), [*eps, ("over", ctx.over(), None)])
    return invoke("F.instance_norm", ctx.args[:1], [("weight", weight, None), ("bias", bias, None), *eps])


_norm(
    "instance_norm", ("aten.instance_norm.default",), "n c s*, c?, c?, c?, c? -> n c s*", _instance_norm,
    _emit_instance_norm,
    Sample((T((2, 4, 3, 5)), T((4,)), T((4,)), None, None, True, 0.1, 1e-5, True)),
    Sample((T((4, 3, 6)), None, None, None, None, True, 0.1, 1e-3, True)),
    Sample((T((3, 2, 4)), T((2,)), None, T((2,), "constant"), T((2,), "positive"), False, 0.1, 1e-3, True)),
    inner=_two_sums,
)  # fmt: skip


def _batch_norm(call: Call) -> Rule:
    """Splitting the batch or space keeps the statistics whole: they are summed inside."""
    rule = letters("n c s*, c?, c?, c?, c? -> n c s*, c, c", call)
    summed = [names[0] for dim, names in enumerate(rule.operands[0]) if dim != 1 and names]
    return replace(rule, whole={letter: frozenset({1, 2}) for letter in summed}, filled=frozenset({"c"}))


def _emit_batch_norm(ctx: EmitContext) -> str:
    """The normalised tensor alone: the running statistics are updated in place, or in evaluation used."""
    x, weight, bias, mean, var, momentum, eps = ctx.args
    rest = [("training", Expr("p.training"), None), ("momentum", momentum, 0.1), ("eps", eps, 1e-5)]
    if not ctx.over():
        return invoke("F.batch_norm", (x, mean, var, weight, bias), rest)
    return invoke("batch_norm", (x, weight, bias, mean, var), [*rest, ("over", ctx.over(), None)])


def _batch_norm_means(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    var: torch.Tensor,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x normalised by its own statistics, and the running statistics after this step."""
    from torch.nn.functional import batch_norm

    new_mean, new_var = mean.detach().clone(), var.detach().clone()
    return batch_norm(x, new_mean, new_var, weight, bias, True, momentum, eps), new_mean, new_var


def _own_statistics(call: Call) -> Rule:
    """Batch norm in training without running statistics."""
    rule = letters("n c s*, c?, c? -> n c s*", call)
    names = [names[0] for dim, names in enumerate(rule.operands[0]) if dim != 1 and names]
    return replace(_summed(rule, names), filled=frozenset({"c"}))


def _emit_own_statistics(ctx: EmitContext) -> str:
    eps = ctx.options(3, [("eps", 1e-5)])
    if ctx.over():
        return invoke("batch_norm", ctx.args[:3], [*eps, ("over", ctx.over(), None)])
    return invoke("F.batch_norm", (ctx.args[0], None, None, *ctx.args[1:3], True), eps)


def _own_statistics_means(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    """x normalised by its own statistics."""
    from torch.nn.functional import batch_norm

    return batch_norm(x, None, None, weight, bias, True, 0.1, eps)


def _batch_norm_inner(call: Call, rule: Rule, letter: str) -> tuple[Inner, ...]:
    """Count, means and squares of all ranks in float64 forward; two sums per channel backward."""
    if letter not in rule.whole:
        return ()
    channels = call.operands[0].shape[1]
    return (Inner("all_sum", 8.0 * (2 * channels + 1), 16.0 * channels),)


_norm(
    "batch_norm_unkept", ("autopar.batch_norm_unkept",), "n c s*, c?, c? -> n c s*", _own_statistics,
    _emit_own_statistics, Sample((T((4, 6, 3)), T((6,)), T((6,)), 1e-5)), Sample((T((6, 2)), None, None, 1e-3)),
    inner=_batch_norm_inner, means=_own_statistics_means,
)  # fmt: skip


_norm(
    "batch_norm", ("autopar.batch_norm",), "n c s*, c?, c?, c, c -> n c s*, c, c", _batch_norm, _emit_batch_norm,
    Sample((T((4, 6, 3, 2)), T((6,)), T((6,)), T((6,), "constant"), T((6,), "positive"), 0.1, 1e-5)),
    Sample((T((6, 4)), None, None, T((4,), "constant"), T((4,), "positive"), 0.3, 1e-3)),
    inner=_batch_norm_inner, means=_batch_norm_means,
)  # fmt: skip


def _still_batch_norm(call: Call) -> Rule:
    """Evaluation: every element by itself. Raises ValueError in training."""
    if "aten.batch_norm." in call.node.target and call.arg(5, "training", False) is not False:
        raise ValueError("batch norm in training")
    rule = letters("n c s*, c?, c?, c?, c? -> n c s*", replace(call, results=call.results[:1]))
    rule = replace(rule, filled=frozenset({"c"}))
    if len(call.results) == 1:
        return rule
    empty: tuple[Dims, ...] = tuple(((),) if value.name else () for value in call.results[1:])  # nothing was trained on
    whole = dict.fromkeys(rule.letters, frozenset({1, 2})) if _statistics_read(call) else {}
    return replace(rule, results=(*rule.results, *empty), whole=whole)


def _statistics_read(call: Call) -> bool:
    return any(value.name for value in call.results[1:])


def _emit_still_batch_norm(ctx: EmitContext) -> str:
    x, weight, bias, mean, var = ctx.args[:5]
    eps = ctx.pick(7 if "aten.batch_norm." in ctx.call.node.target else 6, "eps", 1e-5)
    text = invoke("F.batch_norm", (x, mean, var, weight, bias), [("eps", eps, 1e-5)])
    if _statistics_read(ctx.call):
        return f"({text}, {atom(x)}.new_empty(0), {atom(x)}.new_empty(0))"
    return text if len(ctx.call.results) == 1 else f"({text}, None, None)"


_norm(
    "batch_norm_still",
    ("aten.batch_norm.default", "aten._native_batch_norm_legit_no_training.default"),
    "n c s*, c?, c?, c, c -> n c s*", _still_batch_norm, _emit_still_batch_norm,
    Sample((T((2, 4, 3)), T((4,)), T((4,)), T((4,), "constant"), T((4,), "positive"), False, 0.1, 1e-3, True)),
    Sample((T((2, 4)), None, None, T((4,), "constant"), T((4,), "positive"), False, 0.1, 1e-5, True)),
    Sample(
        (T((2, 4, 3)), T((4,)), None, T((4,), "constant"), T((4,), "positive"), 0.1, 1e-3),
        target="aten._native_batch_norm_legit_no_training.default",
    ),
)  # fmt: skip
