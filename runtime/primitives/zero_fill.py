"""Shard to Partial: every rank's part in its place and zeros elsewhere, so that the sum over the ranks is the whole.

forward    y_i = P_i* x_i                   no communication
adjoint    dx_i = P_i dy                    slice: y's gradient is copied, that is, the same on every rank
"""

from __future__ import annotations

from torch import Tensor

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import bounds_of_part, fill_with_zeros
from autopar.runtime.primitives.autograd import linear

_zero_fill = linear(
    lambda x, axis, bounds: fill_with_zeros(x, bounds, axis.index), lambda dy, axis, bounds: bounds.part(dy, axis.index)
)


def zero_fill(x: Tensor, dim: int, axis: Axis, extent: int, blocks: int = 1, unit: int = 1) -> Tensor:
    """An addend of the whole tensor of which `x` is this rank's part; `extent` is the whole extent of `dim`."""
    bounds = bounds_of_part(x, dim, axis, extent, blocks, unit)
    return x if axis.size == 1 else _zero_fill(x, axis, bounds)
