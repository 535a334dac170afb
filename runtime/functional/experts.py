"""Mixture of experts: every row goes through the networks of the experts that it is routed to.

    expert_linear    y[s] = W[i_s] x[s]                                       one product per expert, its rows together
    experts          y[t] = sum_j w[t, j] D[i_tj] g(U[i_tj] x[t])             g(a) or, gated, g(a) * b of U x = (a, b)

Rows are brought together by expert, so that an expert costs one product whatever its number of rows, and are added up
where they came from. Where the experts are split over an axis, a rank computes the rows that are routed to its own and
its result is an addend: zeros for all others. Nothing is sent here; the adjoints are torch's own, of which those of
unbind and split put the experts' gradients together without a copy for each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from autopar.runtime.grid.grid import Axis
from autopar.runtime.primitives.empty import nothing

Over = tuple[Axis, int]  # the axis that splits the experts, and how many there are on all its ranks

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


def expert_linear(x: Tensor, weight: Tensor, index: Tensor, over: Over | None = None) -> Tensor:
    """``weight[index[s]] @ x[s]`` for every row s: `x` is [row, k], `weight` [expert, n, k], `index` [row].

    With `over`, `weight` holds this rank's experts, and rows of other ranks' experts are zero.
    """
    order, counts = _routed(index, weight, over)
    if not counts:
        return x.new_zeros(x.shape[0], weight.shape[1]) + nothing(x, weight).sum()
    parts = zip(torch.split(x[order], counts), weight.unbind(), strict=True)
    y = torch.cat([F.linear(rows, expert) for rows, expert in parts])
    return x.new_zeros(x.shape[0], weight.shape[1]).index_copy(0, order, y)


def experts(
    x: Tensor,
    index: Tensor,
    weights: Tensor,
    up: Tensor,
    down: Tensor,
    activation: str = "silu",
    gated: bool = True,
    over: Over | None = None,
) -> Tensor:
    """The weighted sum of the chosen experts' networks for every row.

    `x` is [row, k], `index` and `weights` are [row, choice], `up` is [expert, f, k], or [expert, 2 f, k] where gated,
    `down` is [expert, n, f]. `activation` is silu, gelu, gelu_tanh or relu. With `over`, `up` and `down` hold this
    rank's experts, and the result is its addend.
    """
    order, counts = _routed(index.reshape(-1), up, over)
    y = x.new_zeros(x.shape[0], down.shape[1])
    if not counts:
        return y + nothing(x, weights, up, down).sum()
    rows = order // max(index.shape[1], 1)
    parts = zip(torch.split(x[rows], counts), up.unbind(), down.unbind(), strict=True)
    chosen = [F.linear(_activated(F.linear(part, u), activation, gated), d) for part, u, d in parts]
    return y.index_add(0, rows, torch.cat(chosen) * weights.reshape(-1, 1)[order])


def _activated(h: Tensor, activation: str, gated: bool) -> Tensor:
    act = _ACTIVATIONS[activation]
    if not gated:
        return act(h)
    gate, value = h.chunk(2, -1)
    return act(gate) * value


def _routed(index: Tensor, weight: Tensor, over: Over | None) -> tuple[Tensor, list[int]]:
    """The rows routed to this rank's experts, expert after expert, and how many go to each."""
    first, extent = (over[0].start(over[1]), over[1]) if over else (0, weight.shape[0])
    last = first + weight.shape[0]
    counts: list[int] = torch.bincount(index, minlength=extent).tolist()
    begin, mine = sum(counts[:first]), counts[first:last]
    return index.argsort(stable=True)[begin : begin + sum(mine)], mine
