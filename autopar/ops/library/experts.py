"""Mixture of experts, with the experts as a letter.

    expert_linear    y[s, n] = sum_k W[i[s], n, k] x[s, k]                    s k, e n k, s -> s n
    experts          y[t, n] = sum_j w[t, j] D[i[t, j]] g(U[i[t, j]] x[t])    t [k], t j, t j, e (q f) [k], e n f -> t n

Rows are routed by index, so e is a summed letter: the ranks of an axis that splits it hold some experts each, compute
the rows routed to these, and their results add up. The other letters are those of two products, t the tokens, f the
hidden features (q is 2 where half of them gate the others), j the choices of a token. Capture finds both in the
routines that sort rows by expert (`autopar.capture.passes.expert_routing`). Prices take the rows to be spread evenly over experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Sample, T, contraction
from autopar.ops.record.printing import invoke
from autopar.ops.record.rule import Call, Rule, letters, with_linear
from autopar.ops.record.windows import by_place

if TYPE_CHECKING:
    import torch

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")


def _expert_linear(call: Call) -> Rule:
    rule = letters("s k, e n k, s -> s n", call)
    return by_place(with_linear(rule, {0}, {1}), ["e"])


def _linear_means(x: torch.Tensor, weight: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """weight[index[s]] @ x[s]."""
    return (weight[index] @ x.unsqueeze(-1)).squeeze(-1)


def _emit_expert_linear(ctx: EmitContext) -> str:
    return invoke("expert_linear", ctx.args[:3], [("over", ctx.place("e"), None)])


def _linear_flops(call: Call, rule: Rule) -> float:
    """An expert's product for every row."""
    return 2.0 * call.operands[0].numel * call.results[0].shape[1]


contraction(
    "expert_linear",
    ("autopar.expert_linear",),
    "s k, e n k, s -> s n",
    _expert_linear,
    _emit_expert_linear,
    Sample((T((6, 4)), T((3, 2, 4)), T((6,), "index 3"))),
    Sample((T((4, 3)), T((4, 6, 3)), T((4,), "index 3"))),
    flops=_linear_flops,
    means=_linear_means,
)


def _experts(call: Call) -> Rule:
    gated = call.arg(6, "gated", True)
    rule = letters(f"t [k], t j, t j, e {'([q] f)' if gated else 'f'} [k], e n f -> t n", call)
    return by_place(with_linear(rule, {2}, {4}), ["e"])


def _means(
    x: torch.Tensor,
    index: torch.Tensor,
    weights: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    activation: str = "silu",
    gated: bool = True,
) -> torch.Tensor:
    """The weighted sum over choices of the chosen experts' networks."""
    import torch.nn.functional as F

    h = (up[index] @ x[:, None, :, None]).squeeze(-1)
    gate, value = h.chunk(2, -1) if gated else (h, None)
    act = F.gelu(gate, approximate="tanh") if activation == "gelu_tanh" else getattr(F, activation)(gate)
    hidden = act if value is None else act * value
    y: torch.Tensor = (down[index] @ hidden.unsqueeze(-1)).squeeze(-1)
    return (y * weights.unsqueeze(-1)).sum(1)


def _emit_experts(ctx: EmitContext) -> str:
    """The activation is said; the experts' axis where they are split."""
    rest = [("gated", ctx.args[6] if len(ctx.args) > 6 else True, True), ("over", ctx.place("e"), None)]
    return invoke("experts", ctx.args[:6], rest)


def _flops(call: Call, rule: Rule) -> float:
    """Both products of an expert for every choice of every row."""
    _, index, _, up, down = call.operands
    return 2.0 * index.numel * (up.numel + down.numel) / up.shape[0]


contraction(
    "experts",
    ("autopar.experts",),
    "t [k], t j, t j, e (q f) [k], e n f -> t n",
    _experts,
    _emit_experts,
    Sample((T((6, 4)), T((6, 2), "distinct 3"), T((6, 2)), T((3, 8, 4)), T((3, 5, 4)), "silu", True)),
    Sample((T((4, 3)), T((4, 2), "distinct 4"), T((4, 2), "unit"), T((4, 6, 3)), T((4, 2, 6)), "gelu", False)),
    flops=_flops,
    means=_means,
)
