"""Batch normalisation in training, with the statistics of the whole batch, whichever axes split its batch or space.

Let each rank hold n_i values per channel with mean m_i and sum of squared deviations M_i. One all-gather per axis
brings (n_i, m_i, M_i) together, and every rank combines them alike (Chan, Golub and LeVeque 1979; no difference of
large sums):

    n = sum n_i        m = sum n_i m_i / n        M = sum M_i + n_i (m_i - m)^2        v = M / n
    y = w xhat + b     xhat = (x - m) r           r = (v + eps)^(-1/2)

m and v depend on every x of the batch, which gives two sums in the adjoint, one all-reduce per axis of both together:

    db = sum dy        dw = sum dy xhat           over local values: w and b are Copied, their gradients are addends
    S  = all-sum db    T  = all-sum dw
    dx = w r (dy - S / n - xhat T / n)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from autopar.errors import ProgramMismatch, refusal
from autopar.runtime.grid import Axis
from autopar.runtime.primitives.function import apply


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
    count, mean, squares = _statistics(x.detach(), axes)
    if count < 2:
        where = f"batch norm of {x.shape[1]} channels over {', '.join(axis.name for axis in axes)}"
        rule = "in training a channel needs more than one value in the whole batch"
        raise ProgramMismatch(refusal(where, f"there are {count:g} values per channel", rule))
    with torch.no_grad():
        for running, new in ((running_mean, mean), (running_var, squares / (count - 1))):
            if running is not None:
                running.data.lerp_(new.to(running.dtype), momentum)  # no backward reads it, so autograd need not know
    kind = x.dtype if weight is None else weight.dtype
    return apply(_BatchNorm, x, weight, bias, mean.to(kind), (squares / count).to(kind), count, eps, axes)


def _statistics(x: Tensor, axes: tuple[Axis, ...]) -> tuple[float, Tensor, Tensor]:
    """Count, mean and sum of squared deviations per channel over all ranks of the axes, in float64."""
    channels = x.shape[1]
    local = torch.zeros(1 + 2 * channels, dtype=torch.float64)
    if x.numel():
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        local[0] = x.numel() // channels
        local[1 : 1 + channels], local[1 + channels :] = local_statistics(wide)
    for axis in axes:
        local = combine(local, axis)
    return local[0].item(), local[1 : 1 + channels], local[1 + channels :]


def local_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations per channel of `x`, in float64.

    Two passes: with c the mean up to rounding and d = x - c, the mean is ``c + sum d / n`` and the squares are
    ``sum d d - (sum d)^2 / n``. The sums come from the kernels of an inference batch norm with mean c and variance 1, its
    forward giving d and its backward ``sum d (x - c)``: a quarter of the time that torch's own statistics take.
    """
    count = x.numel() // x.shape[1]
    near = x.sum([i for i in range(x.dim()) if i != 1]) / count
    one = torch.ones_like(near)
    apart = F.batch_norm(x, near, one, None, None, False, 0.0, 0.0)
    _, squares, rest = torch.ops.aten.native_batch_norm_backward(
        apart, x, one, near, one, None, None, False, 0.0, [False, True, True]
    )
    rest = rest.double()
    return near.double() + rest / count, squares.double() - rest * rest / count


def combine(local: Tensor, axis: Axis) -> Tensor:
    """The statistics (count, means, squares) of all ranks of the axis together."""
    channels = len(local) // 2
    every = local.new_empty(axis.size, len(local))
    axis.comm.all_gather(local, every)
    counts, means, squares = every[:, :1], every[:, 1 : 1 + channels], every[:, 1 + channels :]
    count = counts.sum()
    mean = (counts * means).sum(0) / count.clamp(min=1)
    return torch.cat([count.reshape(1), mean, (squares + counts * (means - mean) ** 2).sum(0)])


class _Context(FunctionCtx):
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    weight: Tensor | None
    count: float
    eps: float
    axes: tuple[Axis, ...]


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        count: float,
        eps: float,
        axes: tuple[Axis, ...],
    ) -> Tensor:
        given = () if weight is None else (weight,)
        ctx.save_for_backward(x, mean, var, *given)
        ctx.count, ctx.eps, ctx.axes = count, eps, axes
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps) if x.numel() else torch.empty_like(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, var, *given = ctx.saved_tensors
        weight = given[0] if given else None
        grad = grad.contiguous(memory_format=_format(x))
        scale = torch.ones_like(mean) if weight is None else weight
        dw, db = torch.zeros_like(mean), torch.zeros_like(mean)
        if x.numel():  # the sums alone: writing w r dy as well, only to add to it below, takes ten times as long
            _, dw, db = torch.ops.aten.native_batch_norm_backward(
                grad, x, scale, mean, var, None, None, False, ctx.eps, [False, True, True]
            )
        sums = torch.stack([db, dw])
        for axis in ctx.axes:
            axis.comm.all_reduce(sums)
        dx = torch.empty_like(x)
        if x.numel():
            dx = through_statistics(x, mean, var, weight, sums / ctx.count, ctx.eps)
            dx.addcmul_(grad, (scale * torch.rsqrt(var + ctx.eps)).view(-1, *[1] * (x.dim() - 2)))
        needed = ctx.needs_input_grad
        return dx, dw if needed[1] else None, db if needed[2] else None, None, None, None, None, None


def _format(x: Tensor) -> torch.memory_format:
    """In which order the elements of `x` lie, so that its gradient may lie alike."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def through_statistics(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, sums: Tensor, eps: float) -> Tensor:
    """``-w r (S / n + xhat T / n)``, the gradient through m and v: affine in x, so one pass of the forward kernel."""
    r = torch.rsqrt(var + eps)
    scale = -r if weight is None else -weight * r
    return F.batch_norm(x, mean, torch.ones_like(var), scale * r * sums[1], scale * sums[0], False, 0.0, 0.0)
