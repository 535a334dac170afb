"""Convolution and pooling of tensors whose spatial dims are split: a halo exchange per dim, then torch's operator.

Along one dim of n rows, with kernel k, stride s, padding p and dilation d, result row j reads the operand rows
``j s - p + d i`` for 0 <= i < k, rows outside [0, n) being padding. A rank owns the result rows ``[a, b)`` of
``axis.bounds(m)``, m = floor((n + 2p - d (k - 1) - 1) / s) + 1, and so wants the operand rows

    [a s - p, (b - 1) s - p + d (k - 1) + 1)                                            (plain)

with the padding filled in, after which the operator runs without padding along this dim. The transposed operator adds
operand row j to the result rows ``j s - p + d i``, m = (n - 1) s - 2 p + d (k - 1) + 1 + output padding. A rank wants

    [ceil((a + p - d (k - 1)) / s), floor((b - 1 + p) / s) + 1)                         (transposed)

widened, where the stride leaves gaps, until the rows that these add to cover [a, b); what they cover beyond it is cut
off. The two partitions, of operand and result, may be any: uneven, empty, or farther apart than the nearest
neighbour.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from autopar.runtime.convolution import convolve
from autopar.runtime.grid import Axis
from autopar.runtime.primitives.function import apply
from autopar.runtime.primitives.halo import Interval, halo

Over = Mapping[int, tuple[Axis, int]]  # split dim of the operand -> its axis and whole extent
Numbers = int | Sequence[int]  # one per spatial dim, or one for all

_CONV_TRANSPOSE: tuple[Callable[..., Tensor], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_MAX_POOL: tuple[Callable[..., Tensor], ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVG_POOL: tuple[Callable[..., Tensor], ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    over: Over | None = None,
) -> Tensor:
    """`torch.nn.functional.conv{1,2,3}d` of ``x`` [batch, channel, *space], whose spatial dims in `over` are split.

    The result is split over the same axes, at ``axis.bounds`` of its own extent. The gradients of weight and bias are
    this rank's addends.
    """
    spatial = weight.dim() - 2
    kernel = tuple(weight.shape[2:])
    steps, pads, gaps = _each(stride, spatial), _each(padding, spatial), _each(dilation, spatial)
    x, rest, shape = _fetch(x, kernel, steps, pads, gaps, 0.0, over or {})
    if not (x.numel() and weight.numel() and math.prod(shape)):
        return _nothing((*x.shape[: -spatial - 1], len(weight), *shape), x, weight, bias)
    return convolve(x, weight, bias, steps, rest, gaps, groups)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
    over: Over | None = None,
) -> Tensor:
    """`torch.nn.functional.conv_transpose{1,2,3}d` of `x` [batch, channel, *space], split as in `conv`."""
    spatial = weight.dim() - 2
    first = x.dim() - spatial
    steps, gaps = _each(stride, spatial), _each(dilation, spatial)
    pads, extra = list(_each(padding, spatial)), list(_each(output_padding, spatial))
    cuts: dict[int, Interval] = {}
    for dim, (axis, extent) in sorted((over or {}).items()):
        i = dim - first
        span, s, p = gaps[i] * (weight.shape[2 + i] - 1), steps[i], pads[i]
        bounds = axis.bounds((extent - 1) * s - 2 * p + span + 1 + extra[i])
        wanted = [_transposed(a, b, span, s, p) for a, b in itertools.pairwise(bounds)]
        x = halo(x, dim, axis, extent, wanted)
        a, b = bounds[axis.index : axis.index + 2]
        cuts[dim] = a - (wanted[axis.index][0] * s - p), b - a
        pads[i] = extra[i] = 0
    shape = [
        cuts[first + i][1]
        if first + i in cuts
        else (x.shape[first + i] - 1) * steps[i] - 2 * pads[i] + gaps[i] * (weight.shape[2 + i] - 1) + 1 + extra[i]
        for i in range(spatial)
    ]
    if not (x.numel() and weight.numel() and math.prod(shape)):
        return _nothing((*x.shape[: first - 1], weight.shape[1] * groups, *shape), x, weight, bias)
    y = _CONV_TRANSPOSE[spatial - 1](x, weight, bias, steps, pads, extra, groups, gaps)
    for dim, (start, size) in cuts.items():
        y = y.narrow(dim, start, size)
    return y.contiguous()


def max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    over: Over | None = None,
) -> Tensor:
    """`torch.nn.functional.max_pool{1,2,3}d` of `x` [batch, channel, *space], split as in `conv`."""
    spatial = len(kernel)
    steps, gaps = _each(kernel if stride is None else stride, spatial), _each(dilation, spatial)
    x, rest, shape = _fetch(x, kernel, steps, _each(padding, spatial), gaps, -math.inf, over or {})
    if not (x.numel() and math.prod(shape)):
        return _nothing((*x.shape[:-spatial], *shape), x)
    return _MAX_POOL[spatial - 1](x, tuple(kernel), steps, rest, gaps)


def avg_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Numbers | None = None,
    padding: Numbers = 0,
    count_include_pad: bool = True,
    over: Over | None = None,
) -> Tensor:
    """`torch.nn.functional.avg_pool{1,2,3}d` of `x` [batch, channel, *space], split as in `conv`."""
    spatial = len(kernel)
    first = x.dim() - spatial
    steps, pads = _each(kernel if stride is None else stride, spatial), _each(padding, spatial)
    local = tuple(x.shape[first:])
    x, rest, shape = _fetch(x, kernel, steps, pads, (1,) * spatial, 0.0, over or {})
    if not (x.numel() and math.prod(shape)):
        return _nothing((*x.shape[:first], *shape), x)
    y = _AVG_POOL[spatial - 1](x, tuple(kernel), steps, rest)
    if count_include_pad or not any(pads):
        return y
    for i in range(spatial):
        axis, extent = (over or {}).get(first + i, (None, local[i]))
        a = axis.bounds(_extent(extent, kernel[i], steps[i], pads[i], 1))[axis.index] if axis else 0
        start = torch.arange(a, a + shape[i]) * steps[i] - pads[i]
        real = (start + kernel[i]).clamp(max=extent) - start.clamp(min=0)  # rows of each window that are no padding
        y = y * (kernel[i] / real.to(y.dtype)).view(-1, *[1] * (spatial - 1 - i))
    return y


def _fetch(
    x: Tensor,
    kernel: Sequence[int],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    value: float,
    over: Over,
) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """Exchange halos along the split dims: the tensor to run on, the padding left to do, the result's spatial shape."""
    first = x.dim() - len(kernel)
    rest, shape = list(padding), []
    for i, (k, s, p, d) in enumerate(zip(kernel, stride, padding, dilation, strict=True)):
        if first + i not in over:
            shape.append(_extent(x.shape[first + i], k, s, p, d))
            continue
        axis, extent = over[first + i]
        bounds = axis.bounds(_extent(extent, k, s, p, d))
        wanted = [
            (a * s - p, (b - 1) * s - p + d * (k - 1) + 1) if a < b else (0, 0) for a, b in itertools.pairwise(bounds)
        ]
        x = halo(x, first + i, axis, extent, wanted, value)
        rest[i] = 0
        shape.append(axis.part(bounds[-1]))
    return x, tuple(rest), tuple(shape)


def _extent(n: int, k: int, s: int, p: int, d: int) -> int:
    """How many rows a plain window makes of n."""
    return max(0, (n + 2 * p - d * (k - 1) - 1) // s + 1)


def _transposed(a: int, b: int, span: int, s: int, p: int) -> Interval:
    """The operand rows whose windows cover the result rows [a, b); those outside the operand are zeros over gaps."""
    if a == b:
        return 0, 0
    # the first row that adds to one of ours, or starts no later; the last that does, or the first that ends no earlier
    low = min(-((span - a - p) // s), (a + p) // s)
    high = max((b - 1 + p) // s, -((span + 1 - b - p) // s))
    return low, high + 1


def _each(numbers: Numbers, spatial: int) -> tuple[int, ...]:
    return (numbers,) * spatial if isinstance(numbers, int) else tuple(numbers)


class _Context(FunctionCtx):
    saved_tensors: tuple[Tensor, ...]


class _Zeros(torch.autograd.Function):
    """Zeros that depend on the inputs, with gradient zero: so backward reaches the exchanges of a rank without rows."""

    @staticmethod
    def forward(ctx: _Context, shape: tuple[int, ...], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return inputs[0].new_zeros(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(torch.zeros_like(one) for one in ctx.saved_tensors)


def _nothing(shape: tuple[int, ...], x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The result where there is nothing to sum over or nothing to compute: zeros plus the bias."""
    y = apply(_Zeros, shape, *(one for one in (x, weight) if one is not None))
    return y if bias is None else y + bias.view(-1, *[1] * (0 if weight is None else weight.dim() - 2))
