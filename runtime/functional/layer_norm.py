"""Group, layer and RMS normalisation where the normalised elements lie on several ranks.

Each normalises sets of elements: those of a sample and a group of channels, or those of the last dims. With k, m and M the
number of elements of a set on all ranks, their mean and the sum of their squared deviations, which one all-gather per axis
tells every rank (moments.py):

    y = w z + b        z = (x - m) r             r = (v + eps)^(-1/2)                v = M / k

RMS normalisation has m = 0 and v = sum of all x^2 / k, one all-reduce. m and v depend on every x of the set, which gives
two sums in the adjoint (one for RMS), one all-reduce per axis:

    S = sum w dy       T = sum w dy z            over the whole set
    dx = r (w dy - S / k - z T / k)
    dw = sum dy z      db = sum dy               over local elements: addends, where w and b are Copied

A tensor is passed over by torch's batch norm kernels, as ``[1, rows, elements]``: a set is one row, or one per channel of
a group, each with a weight and a bias.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.functional.across_ranks import summed
from autopar.runtime.functional.batch_norm import normalise
from autopar.runtime.functional.moments import Vector, channel_sums, combine, local_moments
from autopar.runtime.grid.grid import Axis
from autopar.runtime.local.autocast import wide_dtype
from autopar.runtime.primitives.autograd import Context, apply


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    over: tuple[Axis, ...] = (),
) -> Tensor:
    """`torch.nn.functional.group_norm` of ``x`` [batch, channel, *space] with `groups` local groups of channels.

    `over` are the axes that split space, or the channels of every group alike (a split in `groups` blocks).
    """
    n, channels = x.shape[:2]
    rows = x.reshape(1, n * channels, math.prod(x.shape[2:]))
    scale, shift = (None if v is None else v.repeat(n) for v in (weight, bias))
    return _normalised(rows, n * groups, scale, shift, eps, over).view(x.shape).to(x.dtype)


def layer_norm(
    x: Tensor,
    dims: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    over: tuple[Axis, ...] = (),
) -> Tensor:
    """`torch.nn.functional.layer_norm` over the last `dims` dims of `x`, which the axes of `over` split."""
    sets = math.prod(x.shape[: x.dim() - dims])
    rows = x.reshape(1, sets, math.prod(x.shape[x.dim() - dims :]))
    z = _normalised(rows, sets, None, None, eps, over).view(x.shape)
    return _affine(z, weight, bias).to(x.dtype)


def rms_norm(
    x: Tensor, dims: int, weight: Tensor | None = None, eps: float | None = None, over: tuple[Axis, ...] = ()
) -> Tensor:
    """`torch.nn.functional.rms_norm` over the last `dims` dims of `x`, which the axes of `over` split."""
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    z = apply(_RootMeanSquare, x.to(wide_dtype(x.dtype)), tuple(range(x.dim() - dims, x.dim())), eps, _several(over))
    return _affine(z, weight, None).to(x.dtype)


def _several(over: tuple[Axis, ...]) -> tuple[Axis, ...]:
    return tuple(axis for axis in over if axis.size > 1)


def _affine(z: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is None:
        return z if bias is None else z + bias
    return z * weight if bias is None else torch.addcmul(bias.to(z.dtype), z, weight.to(z.dtype))


def _normalised(
    x: Tensor, sets: int, weight: Tensor | None, bias: Tensor | None, eps: float, over: tuple[Axis, ...]
) -> Tensor:
    """y for ``x`` [1, rows, elements] of which consecutive rows, equally many each, form the sets."""
    kind = wide_dtype(x.dtype)
    affine = (None if v is None else v.to(kind) for v in (weight, bias))
    return apply(_Normalised, x.to(kind), *affine, sets, eps, _several(over))


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        sets: int,
        eps: float,
        axes: tuple[Axis, ...],
    ) -> Tensor:
        count, means, squares = _statistics(x, sets, axes)
        each = x.shape[1] // max(sets, 1)
        mean = torch.from_numpy(means.repeat(each)).to(x)
        var = torch.from_numpy((squares / max(count, 1)).repeat(each)).to(x)
        ctx.save_for_backward(x, mean, var, *(() if weight is None else (weight,)))
        ctx.arguments = count, sets, eps, axes
        return normalise(x, weight, bias, mean, var, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, mean, var, *weights), (count, sets, eps, axes) = ctx.saved_tensors, ctx.arguments
        grad = grad.contiguous()
        dw, db = channel_sums(grad, x, mean, var, eps) if x.numel() else (torch.zeros_like(mean),) * 2
        sums, scale = torch.stack([dw, db]), torch.rsqrt(var + eps)
        through = scale / -count
        for weight in weights:
            sums, scale = sums * weight, scale * weight
        each = x.shape[1] // max(sets, 1)
        sums = summed(sums if each == 1 else sums.view(2, sets, each).sum(2), axes)
        spread = sums if each == 1 else sums.repeat_interleave(each, 1)
        slope, shift = spread.mul_(through).unbind()
        dx = normalise(x, slope, shift, mean, var, eps).addcmul_(grad, scale.view(-1, 1))
        needed = ctx.needs_input_grad
        return dx, dw if needed[1] else None, db if needed[2] else None, None, None, None


def _statistics(x: Tensor, sets: int, axes: tuple[Axis, ...]) -> tuple[float, Vector, Vector]:
    """Count, and mean and squared deviations of every set over all ranks of the axes."""
    if not x.numel():
        return combine(0, np.zeros(sets), np.zeros(sets), axes)
    rows, count = x.shape[1:]
    means, squares = (values.reshape(sets, rows // sets) for values in local_moments(x))
    middle = means.mean(1)
    with np.errstate(invalid="ignore"):
        squares = squares + count * (means - middle[:, None]) ** 2
    return combine(count * rows // sets, middle, squares.sum(1), axes)


class _RootMeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, dims: tuple[int, ...], eps: float, axes: tuple[Axis, ...]) -> Tensor:
        squares = x.square().sum(dims, keepdim=True)
        message = summed(F.pad(squares.flatten(), (1, 0), value=math.prod(x.shape[dim] for dim in dims)), axes)
        count = message[0].item()
        r = torch.rsqrt(message[1:].view(squares.shape) / count + eps)
        z = x * r
        ctx.save_for_backward(z, r)
        ctx.arguments = count, dims, axes
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        (z, r), (count, dims, axes) = ctx.saved_tensors, ctx.arguments
        total = summed((grad * z).sum(dims, keepdim=True), axes)
        return torch.addcmul(grad, z, total / count, value=-1).mul_(r), None, None, None
