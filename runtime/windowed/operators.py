"""Convolution, pooling and padding of tensors whose spatial dims are split: an exchange per dim, then torch's operator.

Along one dim, with kernel k, stride s, padding p and dilation d, a rank owns the result rows ``[a, b)`` of ``axis.bounds``
of the result's extent, and so wants the operand rows

    [a s - p, (b - 1) s - p + d (k - 1) + 1)                                            (plain)
    [ceil((a + p - d (k - 1)) / s), floor((b - 1 + p) / s) + 1)                         (transposed)

those outside filled in as padding, or widened where the stride leaves gaps (`autopar.runtime.windowed.receptive_field`).
The two partitions, of operand and result, may be any: uneven, empty, or farther apart than the nearest neighbour. Each
function is the run of one layer of `autopar.runtime.windowed.fused_halo`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from autopar.runtime.windowed.fused_halo import Over, wide
from autopar.runtime.windowed.window_layers import AvgPool, Conv, ConvTranspose, MaxPool, Numbers, Pad


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    over: Over | None = None,
    mode: str = "zeros",
) -> Tensor:
    """`torch.nn.functional.conv{1,2,3}d` of ``x`` [batch, channel, *space], whose spatial dims in `over` are split.

    The result is split over the same axes, at ``axis.bounds`` of its own extent. The gradients of weight and bias are
    this rank's addends. `mode` is the padding mode: zeros, reflect, replicate or circular, along all dims.
    """
    return wide(x, [Conv(weight, bias, stride, padding, dilation, groups, mode)], over)


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
    return wide(x, [ConvTranspose(weight, bias, stride, padding, output_padding, groups, dilation)], over)


def max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    over: Over | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """`torch.nn.functional.max_pool{1,2,3}d` of `x` [batch, channel, *space], split as in `conv`."""
    return wide(x, [MaxPool(kernel, stride, padding, dilation, ceil_mode)], over)


def avg_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Numbers | None = None,
    padding: Numbers = 0,
    count_include_pad: bool = True,
    over: Over | None = None,
    ceil_mode: bool = False,
    divisor_override: int | None = None,
) -> Tensor:
    """`torch.nn.functional.avg_pool{1,2,3}d` of `x` [batch, channel, *space], split as in `conv`."""
    return wide(x, [AvgPool(kernel, stride, padding, count_include_pad, ceil_mode, divisor_override)], over)


def pad(x: Tensor, padding: Sequence[int], mode: str = "zeros", value: float = 0.0, over: Over | None = None) -> Tensor:
    """`torch.nn.functional.pad` of the last ``len(padding) / 2`` dims of `x`, the last one first, split as in `conv`.

    `mode` is zeros (torch's constant, with `value`), reflect, replicate or circular. Negative numbers cut rows off: a mirror
    still shows these, a ring is closed without them.
    """
    cut = [min(0, rows) for rows in padding]
    if mode == "circular" and any(cut):
        crop = Pad(cut)
        x = wide(x, [crop], over)
        first = x.dim() - crop.spatial
        over = {dim: (axis, crop.reach(dim - first, n).extent(n)) for dim, (axis, n) in (over or {}).items()}
        padding = [max(0, rows) for rows in padding]
    return wide(x, [Pad(padding, mode, value)], over)
