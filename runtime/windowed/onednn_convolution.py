"""torch's convolution, on a path that is fast for one part of a volume.

For a batch of one, torch runs a float32 convolution by oneDNN only if the product of the first four extents of the
operand exceeds 20480, and by its own im2col otherwise. That is tuned for whole images: half of a volume of 32
channels and 32 x 32 x 32 voxels falls below, and then takes ten times as long (5 against 53 ms forward, 15 against
180 ms with backward, on one core). A batch of two goes to oneDNN always. So such an operand is cut in two along a dim
that needs no padding, the halves (which overlap by the window) are computed as a batch of two, and the results are
joined. With m result rows, of which each half makes h = ceil(m / 2), stride s, dilation d and kernel k:

    y[0:h]   from operand rows [0, (h - 1) s + d (k - 1) + 1)
    y[m-h:m] from the same number of rows, beginning at row (m - h) s;  for odd m its first row is there already

torch's transposed convolution has the same threshold, and where its windows overlap the same loss (46 against 5 ms forward,
for 32 channels, 16 x 32 x 32 voxels and kernel 3). There the operand rows are cut in two, without overlap, a row
of zeros being appended to an odd number; with h rows in each half and r = d (k - 1) + 1 - s

    y[0:h s] from the first half,  y[h s + r:] from the second,  y[h s:h s + r] from both, added; for r < 0 a gap of zeros
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_ONEDNN_ABOVE = 20480  # torch's threshold, in ATen/native/Convolution.cpp
_WORTH = 1_000_000  # multiplications below which two small copies cost more than they save
_FUNCTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@dataclass(frozen=True, slots=True)
class Spacing:
    """What a convolution is told of every spatial dim; `extra` is the transposed one's output padding."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    extra: tuple[int, ...] = ()


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, spacing: Spacing, groups: int) -> Tensor:
    """`torch.nn.functional.conv{1,2,3}d`, to rounding."""
    stride, padding, dilation = spacing.stride, spacing.padding, spacing.dilation
    if groups == 1 and _falls_below(x, weight):
        dims = [i for i in range(3) if padding[i] == 0 and _rows(x, weight, i, stride[i], dilation[i]) > 1]
        work = weight.numel() * math.prod(x.shape[2:]) // math.prod(stride)
        if dims and work >= _WORTH:
            return in_halves(x, weight, bias, spacing, dims[0])
    result: Tensor = _FUNCTIONS[weight.dim() - 3](x, weight, bias, stride, padding, dilation, groups)
    return result


def convolve_transposed(x: Tensor, weight: Tensor, bias: Tensor | None, spacing: Spacing, groups: int) -> Tensor:
    """`torch.nn.functional.conv_transpose{1,2,3}d`, to rounding."""
    stride, padding, extra = spacing.stride, spacing.padding, spacing.extra
    if groups == 1 and _falls_below(x, weight):
        overlap = math.prod(weight.shape[2:]) > math.prod(stride)
        dims = [i for i in range(3) if padding[i] == extra[i] == 0 and x.shape[2 + i] > 1]
        if dims and overlap and weight.numel() * math.prod(x.shape[2:]) >= _WORTH:
            y = transposed_in_halves(x, weight, spacing, dims[0])
            return y if bias is None else y + bias.view(-1, 1, 1, 1)
    function = _TRANSPOSED[weight.dim() - 3]
    result: Tensor = function(x, weight, bias, stride, padding, extra, groups, spacing.dilation)
    return result


def _falls_below(x: Tensor, weight: Tensor) -> bool:
    """Whether torch would leave this convolution of a volume to im2col although oneDNN can do it."""
    volume = x.dim() == 5 and x.shape[0] == 1 and x.dtype == torch.float32 and x.device.type == "cpu"
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not volume or not available or math.prod(x.shape[:4]) > _ONEDNN_ABOVE:
        return False
    high, wide = weight.shape[-2:]
    return (high, wide) != (1, 1) and not (high > 3 and wide > 3)


def _rows(x: Tensor, weight: Tensor, i: int, stride: int, dilation: int) -> int:
    """How many result rows the spatial dim `i` has without padding."""
    return (x.shape[2 + i] - dilation * (weight.shape[2 + i] - 1) - 1) // stride + 1


def in_halves(x: Tensor, weight: Tensor, bias: Tensor | None, spacing: Spacing, cut: int) -> Tensor:
    """A 3-D convolution of a batch of one, as a batch of two halves of spatial dim `cut`, which has no padding."""
    dim, stride, gap = 2 + cut, spacing.stride[cut], spacing.dilation[cut]
    m = _rows(x, weight, cut, stride, gap)
    half = -(-m // 2)
    rows = (half - 1) * stride + gap * (weight.shape[dim] - 1) + 1
    halves = torch.cat([x.narrow(dim, 0, rows), x.narrow(dim, (m - half) * stride, rows)])
    y = F.conv3d(halves, weight, bias, spacing.stride, spacing.padding, spacing.dilation)
    return torch.cat([y[:1], y[1:].narrow(dim, 2 * half - m, m - half)], dim)


def transposed_in_halves(x: Tensor, weight: Tensor, spacing: Spacing, cut: int) -> Tensor:
    """A 3-D transposed convolution of a batch of one, in two halves of spatial dim `cut`, which has no padding."""
    dim = 2 + cut
    n, s = x.shape[dim], spacing.stride[cut]
    half = -(-n // 2)
    if n % 2:
        x = torch.cat([x, torch.zeros_like(x.narrow(dim, 0, 1))], dim)
    halves = torch.cat([x.narrow(dim, 0, half), x.narrow(dim, half, half)])
    y = F.conv_transpose3d(halves, weight, None, spacing.stride, spacing.padding, spacing.extra, 1, spacing.dilation)
    first, second = y[:1], y[1:]
    rest = first.shape[dim] - half * s  # r of the docstring
    if rest <= 0:
        gap = first.new_zeros(*first.shape[:dim], -rest, *first.shape[dim + 1 :])
        whole = torch.cat([first, gap, second], dim)
    else:
        shared = first.narrow(dim, half * s, rest) + second.narrow(dim, 0, rest)
        behind = second.narrow(dim, rest, second.shape[dim] - rest)
        whole = torch.cat([first.narrow(dim, 0, half * s), shared, behind], dim)
    return whole.narrow(dim, 0, (n - 1) * s + spacing.dilation[cut] * (weight.shape[dim] - 1) + 1)
