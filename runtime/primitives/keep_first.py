"""Replicate to Partial: one rank keeps x, the others hold zeros, so that the sum over the ranks is x.

    forward    y_0 = x,  y_i = 0 for i > 0      no communication
    adjoint    dx  = dy                         nothing: y's gradient is copied, that is, the same on every rank

That the adjoint does not mask: the gradient of a sum is the gradient of each addend, and x, being replicated, has the
gradient of the sum on every rank.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.grid.grid import Axis
from autopar.runtime.primitives.autograd import Context, apply


class _Keep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, axis: Axis) -> Tensor:
        return x.view_as(x) if axis.index == 0 else torch.zeros_like(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None


def keep(x: Tensor, axis: Axis) -> Tensor:
    """`x` on the first rank of the axis and zeros on the others: addends of the replicated `x`."""
    return x if axis.size == 1 else apply(_Keep, x, axis)
