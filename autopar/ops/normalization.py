"""Normalisations and softmax: dims whose elements need each other are frozen, all others are free.

Batch norm in training is the exception that brings its own distributed form: split over the batch or over space, its
sums run over all ranks (`autopar.runtime.batch_norm`), and the statistics come out whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from autopar.graph import Ref
from autopar.ops.op import Emit, Expr, Inner, Local, Op, Sample, T, register
from autopar.ops.rule import Call, Rule, letters
from autopar.ops.text import axes_text, extent, function, invoke, normal_dim, options, pick


def _trailing(call: Call) -> Rule:
    """Normalised over the last dims, as many as `normalized_shape` names; weight and bias have these dims."""
    shape = call.node.args[1]
    assert isinstance(shape, tuple)
    inner = " ".join(f"[n{i}]" for i in range(len(shape)))
    operands = [f"b* {inner}", *(f"{inner}?" for _ in (2, 3))]
    results = ["b* " + inner, *(f"b* {' '.join('1' for _ in shape)}" for _ in call.results[1:])]
    positions = (0, 2, 3)
    count = 3 if "layer_norm" in call.node.target else 2
    return letters(f"{', '.join(operands[:count])} -> {', '.join(results)}", call, positions[:count])


def _norm(
    name: str, targets: tuple[str, ...], note: str, rule: Callable[[Call], Rule], emit: Emit, *samples: Sample
) -> None:
    register(Op(name, targets, note, rule, emit, work="reduce", backward=2.0, flops=_ten, samples=samples))


def _ten(call: Call, rule: Rule) -> float:
    """About ten operations per element: mean, variance, scale and shift."""
    return 10.0 * call.operands[0].numel


_norm(
    "layer_norm", ("aten.layer_norm.default",), "b* [n], n?, n? -> b* n", _trailing,
    function("F.layer_norm", 4, ("eps", 1e-5)),
    Sample((T((3, 4, 6)), (6,), T((6,)), T((6,)), 1e-5, False)), Sample((T((4, 2, 3)), (2, 3), None, None, 1e-3)),
    Sample((T((4, 6)), (6,), T((6,)), None)), Sample((T((4, 6)), (6,), None, T((6,)))),
)  # fmt: skip
_norm(
    "rms_norm", ("aten.rms_norm.default",), "b* [n], n? -> b* n", _trailing,
    function("F.rms_norm", 3, ("eps", None)),
    Sample((T((3, 4, 6)), (6,), T((6,)))), Sample((T((4, 6)), (6,), None, 1e-6)),
)  # fmt: skip


def _group_norm(call: Call) -> Rule:
    """Channels and space are whole."""
    return letters("n [c] [s*], c?, c? -> n c s*", call, (0, 2, 3))


_norm(
    "group_norm", ("aten.group_norm.default",), "n [c] [s*], c?, c? -> n c s*", _group_norm,
    function("F.group_norm", 4, ("eps", 1e-5)),
    Sample((T((4, 6, 3, 2)), 2, T((6,)), T((6,)), 1e-5)), Sample((T((4, 6)), 3, None, None, 1e-3)),
)  # fmt: skip


def _instance_norm(call: Call) -> Rule:
    """Space is whole. Raises ValueError where running statistics are kept."""
    if isinstance(call.arg(3, "running_mean"), Ref) or call.arg(5, "use_input_stats", True) is not True:
        raise ValueError("instance norm with running statistics")
    return replace(letters("n c [s*], c?, c? -> n c s*", call, (0, 1, 2)), filled=frozenset({"c"}))


def _emit_instance_norm(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    weight, bias = ("weight", pick(args, kwargs, 1, "weight"), None), ("bias", pick(args, kwargs, 2, "bias"), None)
    eps = options(args, kwargs, 7, [("eps", 1e-5)])
    if "n" in local.splits:  # the same with a group per channel, where torch accepts a rank without samples
        return invoke("F.group_norm", (args[0], Expr(extent(rule, local, "c"))), [weight, bias, *eps])
    return invoke("F.instance_norm", args[:1], [weight, bias, *eps])


_norm(
    "instance_norm", ("aten.instance_norm.default",), "n c [s*], c?, c? -> n c s*", _instance_norm, _emit_instance_norm,
    Sample((T((2, 4, 3, 5)), T((4,)), T((4,)), None, None, True, 0.1, 1e-5, True)),
    Sample((T((4, 3, 6)), None, None, None, None, True, 0.1, 1e-3, True)),
)  # fmt: skip


def _batch_norm(call: Call) -> Rule:
    """Splitting the batch or space keeps the statistics whole: they are summed inside."""
    rule = letters("n c s*, c?, c?, c?, c? -> n c s*, c, c", call)
    summed = [names[0] for dim, names in enumerate(rule.operands[0]) if dim != 1 and names]
    return replace(rule, whole={letter: frozenset({1, 2}) for letter in summed}, filled=frozenset({"c"}))


def _emit_batch_norm(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The normalised tensor alone: the running statistics are updated in place."""
    x, weight, bias, mean, var, momentum, eps = args
    axes = local.axes(tuple(rule.whole))
    rest = [("momentum", momentum, 0.1), ("eps", eps, 1e-5)]
    if not axes:
        return invoke("F.batch_norm", (x, mean, var, weight, bias), [("training", True, False), *rest])
    return invoke("batch_norm", (x, weight, bias, mean, var), [*rest, ("over", axes_text(axes), None)])


def _batch_norm_inner(call: Call, rule: Rule, letter: str) -> tuple[Inner, ...]:
    """Count, means and squares of all ranks in float64 forward; two sums per channel backward."""
    if letter not in rule.whole:
        return ()
    channels = call.operands[0].shape[1]
    return (Inner("all_sum", 8.0 * (2 * channels + 1), 16.0 * channels),)


register(
    Op(
        name="batch_norm",
        targets=("autopar.batch_norm",),
        note="n c s*, c?, c?, c, c -> n c s*, c, c",
        rule=_batch_norm,
        emit=_emit_batch_norm,
        work="reduce",
        flops=_ten,
        backward=2.0,
        inner=_batch_norm_inner,
        samples=(
            Sample(
                (T((4, 6, 3, 2)), T((6,)), T((6,)), T((6,), "constant"), T((6,), "positive"), 0.1, 1e-5),
            ),
            Sample((T((6, 4)), None, None, T((4,), "constant"), T((4,), "positive"), 0.3, 1e-3)),
        ),
    )
)


def _still_batch_norm(call: Call) -> Rule:
    """Evaluation: every element by itself. Raises ValueError in training."""
    if call.arg(5, "training", False) is not False:
        raise ValueError("batch norm in training")
    rule = letters("n c s*, c?, c?, c?, c? -> n c s*", replace(call, results=call.results[:1]))
    unread = tuple(() for _ in call.results[1:])
    if any(value.name for value in call.results[1:]):
        raise ValueError("the statistics are read")
    return replace(rule, results=(*rule.results, *unread), filled=frozenset({"c"}))


def _emit_still_batch_norm(
    call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str:
    x, weight, bias, mean, var = args[:5]
    eps = pick(args, kwargs, 7 if "aten.batch_norm" in call.node.target else 6, "eps", 1e-5)
    text = invoke("F.batch_norm", (x, mean, var, weight, bias), [("eps", eps, 1e-5)])
    return text if len(call.results) == 1 else f"({text}, None, None)"


_norm(
    "batch_norm_still",
    ("aten.batch_norm.default", "aten._native_batch_norm_legit_no_training.default"),
    "n c s*, c?, c?, c, c -> n c s*", _still_batch_norm, _emit_still_batch_norm,
    Sample((T((2, 4, 3)), T((4,)), T((4,)), T((4,), "constant"), T((4,), "positive"), False, 0.1, 1e-3, True)),
    Sample((T((2, 4)), None, None, T((4,), "constant"), T((4,), "positive"), False, 0.1, 1e-5, True)),
)  # fmt: skip


def _softmax(call: Call) -> Rule:
    """The normalised dim is whole."""
    ndim = len(call.operands[0].shape)
    dim = normal_dim(call.arg(1, "dim"), ndim)
    names = " ".join(f"[v{i}]" if i == dim else f"b{i}" for i in range(ndim))
    return letters(f"{names} -> {names}", call)


def _emit_softmax(name: str) -> Emit:
    def emit(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        extra = options(args, kwargs, 2, [("dtype", None)]) if "int" in call.node.target else []
        return invoke(name, args[:2], extra)

    return emit


for _name in ("softmax", "log_softmax"):
    register(
        Op(
            name=_name,
            targets=(f"aten.{_name}.int", f"aten._{_name}.default"),
            note="b* [v] -> b* v",
            rule=_softmax,
            emit=_emit_softmax(f"F.{_name}"),
            work="reduce",
            saves="output",
            samples=(
                Sample((T((3, 4, 6)), -1)),
                Sample((T((4, 6)), 0)),
                Sample((T((4, 6)), 1, False), target=f"aten._{_name}.default"),
            ),
        )
    )
