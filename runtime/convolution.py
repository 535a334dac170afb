"""torch's convolution, on a path that is fast for one part of a volume.

For a batch of one, torch runs a float32 convolution by oneDNN only if the product of the first four extents of the
operand exceeds 20480, and by its own im2col otherwise. That is tuned for whole images: half of a volume of 32
channels and 32 x 32 x 32 voxels falls below, and then takes ten times as long (5 against 53 ms forward, 15 against
180 ms with backward, on one core). A batch of two goes to oneDNN always. So such an operand is cut in two along a dim
that needs no padding, the halves (which overlap by the window) are computed as a batch of two, and the results are
joined. With m result rows, of which each half makes h = ceil(m / 2), stride s, dilation d and kernel k:

    y[0:h]   from operand rows [0, (h - 1) s + d (k - 1) + 1)
    y[m-h:m] from the same number of rows, beginning at row (m - h) s;  for odd m its first row is there already
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_ONEDNN_ABOVE = 20480  # torch's threshold, in ATen/native/Convolution.cpp
_WORTH = 1_000_000  # multiplications below which two small copies cost more than they save
_FUNCTIONS = (F.conv1d, F.conv2d, F.conv3d)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """`torch.nn.functional.conv{1,2,3}d`, to rounding."""
    if groups == 1 and _falls_below(x, weight):
        dims = [i for i in range(3) if padding[i] == 0 and _rows(x, weight, i, stride[i], dilation[i]) > 1]
        work = weight.numel() * math.prod(x.shape[2:]) // math.prod(stride)
        if dims and work >= _WORTH:
            return in_halves(x, weight, bias, stride, padding, dilation, dims[0])
    result: Tensor = _FUNCTIONS[weight.dim() - 3](x, weight, bias, stride, padding, dilation, groups)
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


def in_halves(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    cut: int,
) -> Tensor:
    """A 3-D convolution of a batch of one, as a batch of two halves of spatial dim `cut`, which has no padding."""
    dim = 2 + cut
    m = _rows(x, weight, cut, stride[cut], dilation[cut])
    half = -(-m // 2)
    rows = (half - 1) * stride[cut] + dilation[cut] * (weight.shape[dim] - 1) + 1
    halves = torch.cat([x.narrow(dim, 0, rows), x.narrow(dim, (m - half) * stride[cut], rows)])
    y = F.conv3d(halves, weight, bias, stride, padding, dilation)
    return torch.cat([y[:1], y[1:].narrow(dim, 2 * half - m, m - half)], dim)
