"""Replicate to Copied: each rank's use of x is its own from here on.

forward    y_i = x                          nothing
adjoint    dx  = sum_i dy_i                 all-reduce (Hewett and Grady: the adjoint of a copy is a sum)
"""

from __future__ import annotations

from torch import Tensor

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import sum_whole
from autopar.runtime.primitives.autograd import linear

_copy = linear(lambda x, axis: x.view_as(x), sum_whole)


def copy(x: Tensor, axis: Axis) -> Tensor:
    """`x` itself; its gradient is the sum over the axis of the gradients of the ranks' copies."""
    return x if axis.size == 1 else _copy(x, axis)
