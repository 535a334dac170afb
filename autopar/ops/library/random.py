"""Dropout and random tensors: a letter per dim, every element drawn by its place in the whole tensor.

The numbers do not depend on what is split (`autopar.runtime.grid.counter_rng`): replicas agree, shards hold parts of one
tensor, and a program draws what the undivided model draws where that is asked to draw alike. Dropout is linear in x, with one
mask for all addends of a partial sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from autopar.ir.graph import Dtype
from autopar.ops.record.dim_letters import lettered, named
from autopar.ops.record.emit_context import Emit, EmitContext
from autopar.ops.record.op import Op, Sample, T, register
from autopar.ops.record.printing import invoke
from autopar.ops.record.rule import Call, Rule, with_linear

if TYPE_CHECKING:
    import torch


def _every_dim(call: Call) -> Rule:
    """One letter per dim, the same for operand and result."""
    names = named(call.results[0].shape)
    if any(value.name for value in call.results[1:]):
        raise ValueError("the mask of a dropout is read")
    return lettered(call, [names] * len(call.operands), [names] * len(call.results))


def _dropout(call: Call) -> Rule:
    return with_linear(_every_dim(call), {0})


def _off(call: Call) -> bool:
    """Whether it drops nothing; capture leaves none of these."""
    if call.node.target == "autopar.drop_path":
        return False
    return not call.arg(1, "p", 0.5) or call.arg(2, "train", True) is False


def _emit_dropout(name: str, drawn: int | None = None) -> Emit:
    """``dropout(x, 0.1)``; a mask is drawn for the first `drawn` dims, None for all."""

    def emit(ctx: EmitContext) -> str:
        over = ctx.all_positions(ctx.rule.results[0][:drawn])
        text = str(ctx.args[0]) if _off(ctx.call) else invoke(name, ctx.args[:2], [("over", over, None)])
        return text if len(ctx.call.results) == 1 else f"({text}, None)"

    return emit


def _emit_like(name: str, count: int) -> Emit:
    """``rand_like(x)``, with the first `count` arguments."""

    def emit(ctx: EmitContext) -> str:
        if ctx.call.results[0].dtype != ctx.call.operands[0].dtype:  # drawn in that dtype
            return _emit_sized(name.removesuffix("_like"))(ctx)
        return invoke(name, ctx.args[:count], [("over", ctx.all_positions(ctx.rule.results[0]), None)])

    return emit


def _emit_sized(name: str) -> Emit:
    """``rand((DATA.part(8), 1))``."""

    def emit(ctx: EmitContext) -> str:
        return invoke(name, (ctx.shape(),), _drawn(ctx, "float32"))

    return emit


def _drawn(ctx: EmitContext, assumed: str) -> list[tuple[str, object, object]]:
    """Where a rank's numbers stand, and their dtype if it is not what is assumed."""
    kind = ctx.call.results[0].dtype
    dtype = Dtype(kind) if kind != assumed else None
    return [("over", ctx.all_positions(ctx.rule.results[0]), None), ("dtype", dtype, None)]


def _emit_scaled(name: str) -> Emit:
    """``rand_like(x) * (high - low) + low``, or ``randn_like(x) * std + mean``."""

    def emit(ctx: EmitContext) -> str:
        uniform = name == "rand_like"
        shift = ctx.pick(1, "from" if uniform else "mean", 0.0)
        scale = ctx.pick(2, "to" if uniform else "std", 1.0) - (shift if uniform else 0.0)
        text = invoke(name, ctx.args[:1], [("over", ctx.all_positions(ctx.rule.results[0]), None)])
        scaled = text if scale == 1 else f"{text} * {scale}"
        return scaled if shift == 0 else f"{scaled} + {shift}"

    return emit


def _emit_integers(ctx: EmitContext) -> str:
    """``randint(0, 1000, (DATA.part(8),))``."""
    low, high = ctx.args[:2] if ".low" in ctx.call.node.target else (0, ctx.args[0])
    return invoke("randint", (low, high, ctx.shape()), _drawn(ctx, "int64"))


def _random(
    name: str, targets: tuple[str, ...], rule: Callable[[Call], Rule], emit: Emit, saves: str, *samples: Sample
) -> None:
    note = "d* -> d*" if samples[0].args and isinstance(samples[0].args[0], T) else "-> d*"
    backward = 1.0 if "dropout" in name else 0.0
    unless = _off if "dropout" in name else None
    register(
        Op(
            name, targets, note, rule, emit, flops=_ten, saves=saves, backward=backward, samples=samples, random=True,
            unless=unless,
        )
    )  # fmt: skip


def _ten(call: Call, rule: Rule) -> float:
    """A random number takes about ten operations."""
    return 10.0 * call.results[0].numel


def _written_out(x: torch.Tensor, keep: float) -> torch.Tensor:
    """Drop path, as models write it (`autopar.capture.passes.drop_path`)."""
    import torch

    drawn = torch.rand((x.shape[0], *[1] * (x.dim() - 1)), dtype=x.dtype, device=x.device)
    return x / keep * torch.floor(drawn + keep)


_X = T((4, 6))
_FLOAT64 = (("dtype", Dtype("float64")),)

_random(
    "dropout", ("aten.dropout.default", "aten.native_dropout.default"), _dropout, _emit_dropout("dropout"), "output",
    Sample((T((4, 3, 8)), 0.4, True)), Sample((_X, 1.0, True)), Sample((_X, 0.0, True)), Sample((_X, 0.5, False)),
)  # fmt: skip
_random(
    "feature_dropout", ("aten.feature_dropout.default",), _dropout, _emit_dropout("feature_dropout", 2), "output",
    Sample((T((4, 6, 2, 3)), 0.4, True)), Sample((_X, 0.5, True)),
)  # fmt: skip
register(
    Op(
        name="drop_path",
        targets=("autopar.drop_path",),
        note="d* -> d*",
        rule=_dropout,
        emit=_emit_dropout("drop_path", 1),
        flops=_ten,
        samples=(Sample((T((4, 3, 8)), 0.6)), Sample((T((6, 2)), 0.3))),
        means=_written_out,
        random=True,
    )
)
_random(
    "alpha_dropout", ("aten.alpha_dropout.default",), _every_dim, _emit_dropout("alpha_dropout"), "output",
    Sample((T((4, 3, 8)), 0.4, True)), Sample((_X, 1.0, True)), Sample((_X, 0.0, True)),
)  # fmt: skip
_random(
    "bernoulli", ("aten.bernoulli.p",), _every_dim, _emit_like("bernoulli", 2), "",
    Sample((T((4, 6), "constant"), 0.7)),
)  # fmt: skip
_random(
    "bernoulli_of", ("aten.bernoulli.default",), _every_dim, _emit_like("bernoulli_of", 1), "",
    Sample((T((4, 6), "unit"),)),
)  # fmt: skip
for _name in ("rand", "randn"):
    _random(
        _name, (f"aten.{_name}.default",), _every_dim, _emit_sized(_name), "",
        Sample(((4, 6),), _FLOAT64), Sample(((8, 1, 1),), _FLOAT64), Sample(((),), _FLOAT64),
    )  # fmt: skip
    _random(
        f"{_name}_like", (f"aten.{_name}_like.default",), _every_dim, _emit_like(f"{_name}_like", 1), "", Sample((_X,))
    )
_random(
    "exponential", ("aten.exponential.default",), _every_dim, _emit_like("exponential_like", 2), "",
    Sample((T((4, 6)),)), Sample((T((4,), "constant"), 2.0)),
)  # fmt: skip
_random(
    "randint", ("aten.randint.default", "aten.randint.low"), _every_dim, _emit_integers, "",
    Sample((9, (4, 6))), Sample((2, 9, (6,)), (("dtype", Dtype("int32")),), "aten.randint.low"),
)  # fmt: skip
_random(
    "normal", ("aten.normal_functional.default",), _every_dim, _emit_scaled("randn_like"), "",
    Sample((T((4, 6), "constant"),)), Sample((T((4,), "constant"), -1.0, 2.0)),
)  # fmt: skip
_random(
    "uniform", ("aten.uniform.default",), _every_dim, _emit_scaled("rand_like"), "",
    Sample((T((4, 6)),)), Sample((T((4,), "constant"), -1.0, 2.0)),
)  # fmt: skip
