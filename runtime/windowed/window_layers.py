"""Windowed operators as records: how far each reaches along a dim, and torch's call on the rows that are there.

    Conv  ConvTranspose  MaxPool  AvgPool  Pad          (`Interpolate` stands in `autopar.runtime.windowed.interpolation`)

A record says for every spatial dim how result rows depend on operand rows (`autopar.runtime.windowed.receptive_field`), and
runs on a block: per dim, either the whole operand, whose padding is left to torch, or exactly the positions that some result
rows read, padding included, where torch's operator without padding gives exactly these rows. The functions of
`autopar.runtime.windowed.operators` are runs of one record, `autopar.runtime.windowed.fused_halo` is a run of many.
"""

# ruff: noqa: D102  (the methods of a layer are described once, in `WindowLayer`)

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from autopar.runtime.grid.exchange_plan import Interval
from autopar.runtime.windowed.onednn_convolution import Spacing, convolve, convolve_transposed
from autopar.runtime.windowed.receptive_field import ReceptiveField, Shift, StridedWindow, TransposedWindow

Numbers = int | Sequence[int]  # one per spatial dim, or one for all

_MAX_POOL: tuple[Callable[..., Tensor], ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVG_POOL: tuple[Callable[..., Tensor], ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


@dataclass(frozen=True, slots=True)
class Block:
    """One spatial dim of a call: the operand's whole extent, the result rows to make, and what the operand holds.

    Where `ready`, the operand holds the positions that the rows read, and otherwise its whole dim without padding.
    """

    extent: int
    rows: Interval
    ready: bool

    @property
    def count(self) -> int:
        """How many result rows there are to make."""
        return self.rows[1] - self.rows[0]


class WindowLayer(ABC):
    """A windowed operator with its parameters."""

    __slots__ = ()
    value: ClassVar[float] = 0.0  # of the padding, where the mode is zeros
    mode: str = "zeros"

    @property
    @abstractmethod
    def spatial(self) -> int:
        """How many spatial dims it has; they are the operand's last."""

    @abstractmethod
    def reach(self, i: int, extent: int) -> ReceptiveField:
        """How result rows depend on operand rows in spatial dim `i`, of whose whole extent a reach may depend."""

    @abstractmethod
    def run(self, x: Tensor, blocks: Sequence[Block]) -> Tensor:
        """The operator on a block that has elements and makes some."""

    def channels(self, operand: int) -> int:
        """How many channels the result has."""
        return operand

    def learned(self) -> tuple[Tensor, ...]:
        """The parameters that every result row depends on."""
        return ()

    def fill(self) -> float:
        """What padding holds where the mode is zeros."""
        return self.value


def each(numbers: Numbers, spatial: int) -> tuple[int, ...]:
    """One number per spatial dim."""
    return (numbers,) * spatial if isinstance(numbers, int) else tuple(numbers)


def _left(padding: Sequence[int], blocks: Sequence[Block]) -> tuple[int, ...]:
    """The padding that is left to torch."""
    return tuple(0 if block.ready else p for p, block in zip(padding, blocks, strict=True))


class _Weighted(WindowLayer):
    """What convolutions have in common."""

    __slots__ = ()
    weight: Tensor
    bias: Tensor | None

    @property
    def spatial(self) -> int:
        return self.weight.dim() - 2

    def learned(self) -> tuple[Tensor, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


@dataclass(frozen=True, slots=True, eq=False)
class Conv(_Weighted):
    """`torch.nn.functional.conv{1,2,3}d`; `mode` is the padding mode, as of `torch.nn.Conv2d`."""

    weight: Tensor
    bias: Tensor | None = None
    stride: Numbers = 1
    padding: Numbers = 0
    dilation: Numbers = 1
    groups: int = 1
    mode: str = "zeros"

    def reach(self, i: int, extent: int) -> ReceptiveField:
        stride, padding, gap = (each(ns, self.spatial)[i] for ns in (self.stride, self.padding, self.dilation))
        return StridedWindow(self.weight.shape[2 + i], stride, padding, gap)

    def run(self, x: Tensor, blocks: Sequence[Block]) -> Tensor:
        steps, pads, gaps = (each(numbers, self.spatial) for numbers in (self.stride, self.padding, self.dilation))
        return convolve(x, self.weight, self.bias, Spacing(steps, _left(pads, blocks), gaps), self.groups)

    def channels(self, operand: int) -> int:
        return len(self.weight)


@dataclass(frozen=True, slots=True, eq=False)
class ConvTranspose(_Weighted):
    """`torch.nn.functional.conv_transpose{1,2,3}d`."""

    weight: Tensor
    bias: Tensor | None = None
    stride: Numbers = 1
    padding: Numbers = 0
    output_padding: Numbers = 0
    groups: int = 1
    dilation: Numbers = 1

    def reach(self, i: int, extent: int) -> TransposedWindow:
        numbers = (each(ns, self.spatial)[i] for ns in (self.stride, self.padding, self.dilation, self.output_padding))
        return TransposedWindow(self.weight.shape[2 + i], *numbers)

    def run(self, x: Tensor, blocks: Sequence[Block]) -> Tensor:
        steps, gaps = each(self.stride, self.spatial), each(self.dilation, self.spatial)
        pads = _left(each(self.padding, self.spatial), blocks)
        extra = _left(each(self.output_padding, self.spatial), blocks)
        y = convolve_transposed(x, self.weight, self.bias, Spacing(steps, pads, gaps, extra), self.groups)
        for i, block in enumerate(blocks):
            if block.ready:  # cut off what the rows that were read add to beyond ours
                reach = self.reach(i, block.extent)
                first = reach.reads(block.extent, block.rows)[0] * reach.stride - reach.padding
                y = y.narrow(y.dim() - self.spatial + i, block.rows[0] - first, block.count)
        return y.contiguous()

    def channels(self, operand: int) -> int:
        return self.weight.shape[1] * self.groups


class _Pooling(WindowLayer):
    """What poolings have in common."""

    __slots__ = ()
    kernel: Sequence[int]
    stride: Numbers | None
    padding: Numbers
    dilation: Numbers = 1
    ceil_mode: bool

    @property
    def spatial(self) -> int:
        return len(self.kernel)

    @property
    def steps(self) -> tuple[int, ...]:
        """The stride of every spatial dim; that of the kernel where none is given."""
        return each(self.stride or self.kernel, self.spatial)

    def reach(self, i: int, extent: int) -> StridedWindow:
        padding, gap = (each(numbers, self.spatial)[i] for numbers in (self.padding, self.dilation))
        return StridedWindow(self.kernel[i], self.steps[i], padding, gap, self.ceil_mode)

    def extended(self, x: Tensor, blocks: Sequence[Block]) -> tuple[Tensor, tuple[int, ...]]:
        """The operand, and the padding that is left to torch; with ceil_mode none, the operand being padded as far as read."""
        pads = _left(each(self.padding, self.spatial), blocks)
        if not self.ceil_mode:
            return x, pads
        around: list[int] = []
        for i, block in reversed(list(enumerate(blocks))):
            start, stop = self.reach(i, block.extent).reads(block.extent, block.rows)
            around += (0, 0) if block.ready else (-start, stop - block.extent)
        return F.pad(x, around, value=self.value), (0,) * self.spatial


@dataclass(frozen=True, slots=True)
class MaxPool(_Pooling):
    """`torch.nn.functional.max_pool{1,2,3}d`."""

    kernel: Sequence[int]
    stride: Numbers | None = None
    padding: Numbers = 0
    dilation: Numbers = 1
    ceil_mode: bool = False
    value: ClassVar[float] = -math.inf

    def run(self, x: Tensor, blocks: Sequence[Block]) -> Tensor:
        x, pads = self.extended(x, blocks)
        return _MAX_POOL[self.spatial - 1](x, tuple(self.kernel), self.steps, pads, each(self.dilation, self.spatial))


@dataclass(frozen=True, slots=True)
class AvgPool(_Pooling):
    """`torch.nn.functional.avg_pool{1,2,3}d`; `divisor_override` is divided by instead of the rows of a window."""

    kernel: Sequence[int]
    stride: Numbers | None = None
    padding: Numbers = 0
    count_include_pad: bool = True
    ceil_mode: bool = False
    divisor_override: int | None = None

    def run(self, x: Tensor, blocks: Sequence[Block]) -> Tensor:
        pads = each(self.padding, self.spatial)
        x, left = self.extended(x, blocks)
        y = _AVG_POOL[self.spatial - 1](x, tuple(self.kernel), self.steps, left)
        if self.divisor_override is not None:
            return y * (math.prod(self.kernel) / self.divisor_override)
        if (self.count_include_pad and not self.ceil_mode) or not (any(pads) or self.ceil_mode):
            return y
        for i, block in enumerate(blocks):
            counted = pads[i] if self.count_include_pad else 0  # rows of padding at either end that are counted
            start = torch.arange(*block.rows, device=y.device) * self.steps[i] - pads[i]
            rows = (start + self.kernel[i]).clamp(max=block.extent + counted) - start.clamp(min=-counted)
            y = y * (self.kernel[i] / rows.to(y.dtype)).view(-1, *[1] * (self.spatial - 1 - i))
        return y


@dataclass(frozen=True, slots=True)
class Pad(WindowLayer):
    """`torch.nn.functional.pad`: `padding` in torch's order, two numbers per dim, the last dim first.

    `mode` is zeros (torch's constant; `constant` is the value), reflect, replicate or circular.
    """

    padding: Sequence[int]
    mode: str = "zeros"
    constant: float = 0.0

    @property
    def spatial(self) -> int:
        return len(self.padding) // 2

    def reach(self, i: int, extent: int) -> Shift:
        last = 2 * (self.spatial - 1 - i)
        return Shift(self.padding[last], self.padding[last + 1])

    def run(self, x: Tensor, blocks: Sequence[Block]) -> Tensor:
        rest: list[int] = []
        for block, low, high in zip(reversed(blocks), self.padding[::2], self.padding[1::2], strict=True):
            rest += (0, 0) if block.ready else (low, high)
        return F.pad(x, rest, value=self.constant) if any(rest) else x

    def fill(self) -> float:
        return self.constant
