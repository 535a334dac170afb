"""A tensor without elements, which stands on a rank for what other ranks hold, or compute.

forward    y = ()                           no entries: the operator is the 0 x n matrix
adjoint    dx = 0                           its transpose, n x 0, applied to no entries

So ``nothing(x, w)`` is what a rank outside a partition returns from a layer: its gradient reaches `x` and `w`, and with
them the communication that made them, in which the other ranks wait for this one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.primitives.autograd import Context, apply


class _Zeros(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, shape: tuple[int, ...], *inputs: Tensor) -> Tensor:
        ctx.arguments = tuple((x.shape, x.dtype, x.device) for x in inputs)
        return next((x for x in inputs if x.is_floating_point() or x.is_complex()), inputs[0]).new_zeros(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.arguments)


def nothing(*inputs: Tensor) -> Tensor:
    """A tensor of shape (0,) that depends on `inputs`, through which backward reaches them with gradients of zero.

    It has the type of the first that can have a gradient, so that it leads backward past indices, too.
    """
    return zeros_from((0,), *inputs) if inputs else torch.empty(0)


def zeros_from(shape: tuple[int, ...], *inputs: Tensor) -> Tensor:
    """Zeros that depend on `inputs`, as `nothing` does: backward reaches the exchanges of a rank without rows."""
    return apply(_Zeros, shape, *inputs)
