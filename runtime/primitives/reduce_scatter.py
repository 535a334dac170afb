"""Partial to Shard: the sum over the ranks, of which each keeps its part.

forward    y_i = P_i sum_j x_j              reduce-scatter
adjoint    dx_j = sum_i P_i* dy_i           all-gather: every addend has the gradient of the sum
"""

from __future__ import annotations

from torch import Tensor

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import bounds_of_whole, gather_parts, sum_parts
from autopar.runtime.primitives.autograd import linear

_reduce_scatter = linear(sum_parts, gather_parts)


def reduce_scatter(x: Tensor, dim: int, axis: Axis, blocks: int = 1, unit: int = 1) -> Tensor:
    """This rank's part of `dim` of the sum over the axis of the addends `x`."""
    return x if axis.size == 1 else _reduce_scatter(x, axis, bounds_of_whole(x, dim, axis, blocks, unit))
