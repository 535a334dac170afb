"""Batch normalisation in training, with the statistics of the whole batch, whichever axes split its batch or space.

With n, m and M the number of values of a channel on all ranks, their mean and the sum of their squared deviations, which
one all-gather per axis tells every rank (moments.py):

    y = w xhat + b     xhat = (x - m) r           r = (v + eps)^(-1/2)        v = M / n

m and v depend on every x of the batch, which gives two sums in the adjoint, one all-reduce per axis of both together:

    db = sum dy        dw = sum dy xhat           over local values: w and b are Copied, their gradients are addends
    S  = all-sum db    T  = all-sum dw
    dx = w r (dy - S / n - xhat T / n)            w r dy apart, affine in x: a pass of the forward kernel
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.errors import ProgramMismatch, refusal
from autopar.runtime.functional.across_ranks import summed
from autopar.runtime.functional.moments import Vector, channel_sums, combine, local_moments
from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.memory_format import order
from autopar.runtime.local.autocast import wide_dtype
from autopar.runtime.primitives.autograd import Context, apply


def batch_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    over: tuple[Axis, ...] = (),
    training: bool = True,
) -> Tensor:
    """Normalise `x` [batch, channel, ...] by the statistics of all ranks of `over`, axes that split batch or space.

    Not in `training` by the running statistics, without any communication.

    Updates the running statistics in place, alike on every rank, with the unbiased variance. Raises ProgramMismatch
    where a channel has a single value in the whole batch.
    """
    axes = tuple(axis for axis in over if axis.size > 1)
    if not axes or not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    return apply(_BatchNorm, x, weight, bias, running_mean, running_var, momentum, eps, axes)


def _statistics(x: Tensor, axes: tuple[Axis, ...]) -> tuple[float, Vector, Vector]:
    """Count, mean and sum of squared deviations per channel over all ranks of the axes."""
    channels = x.shape[1]
    nothing = np.zeros(channels)
    local = local_moments(x.to(wide_dtype(x.dtype))) if x.numel() else (nothing, nothing)
    count, mean, squares = combine(x.numel() // max(channels, 1), *local, axes)
    if count < 2:
        where = f"batch norm of {channels} channels over {', '.join(axis.name for axis in axes)}"
        rule = "in training a channel needs more than one value in the whole batch"
        raise ProgramMismatch(refusal(where, f"there are {count:g} values per channel", rule))
    return count, mean, squares


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        axes: tuple[Axis, ...],
    ) -> Tensor:
        count, means, squares = _statistics(x, axes)
        for running, new in ((running_mean, means), (running_var, squares / (count - 1))):
            if running is not None:  # no backward reads it, so autograd need not know
                running.data.lerp_(torch.from_numpy(new).to(running), momentum)
        like = x if weight is None else weight
        mean, var = torch.from_numpy(means).to(like), torch.from_numpy(squares / count).to(like)
        ctx.save_for_backward(x, mean, var, *(() if weight is None else (weight,)))
        ctx.arguments = count, eps, axes
        return normalise(x, weight, bias, mean, var, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, mean, var, *weights), (count, eps, axes) = ctx.saved_tensors, ctx.arguments
        grad = grad.contiguous(memory_format=order(x))
        dw, db = channel_sums(grad, x, mean, var, eps) if x.numel() else (torch.zeros_like(mean),) * 2
        sums = summed(torch.stack([dw, db]), axes)
        scale = torch.rsqrt(var + eps)
        for weight in weights:
            scale *= weight
        slope, shift = sums.mul_(scale / -count).unbind()
        dx = normalise(x, slope, shift, mean, var, eps).addcmul_(grad, scale.view(-1, *[1] * (x.dim() - 2)))
        needed = ctx.needs_input_grad
        return dx, dw if needed[1] else None, db if needed[2] else None, None, None, None, None, None


def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """``(x - m) (v + eps)^(-1/2) w + b``, by channels, in one pass."""
    return torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0] if x.numel() else torch.empty_like(x)
