"""Copied to Shard: every rank takes its part of what it holds whole.

forward    y_i = P_i x                      no communication
adjoint    dx_i = P_i* dy_i                 zeros elsewhere: each rank's gradient is an addend
"""

from __future__ import annotations

from torch import Tensor

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import bounds_of_whole, fill_with_zeros
from autopar.runtime.primitives.autograd import linear

_take = linear(
    lambda x, axis, bounds: bounds.part(x, axis.index), lambda dy, axis, bounds: fill_with_zeros(dy, bounds, axis.index)
)


def take(x: Tensor, dim: int, axis: Axis, blocks: int = 1, unit: int = 1) -> Tensor:
    """This rank's part of `dim` of the copied `x`; the dim is read as ``blocks x m x unit`` and m is bounds."""
    return x if axis.size == 1 else _take(x, axis, bounds_of_whole(x, dim, axis, blocks, unit))
