"""Partial to Replicate: the sum over the ranks.

forward    y   = sum_i x_i                  all-reduce, the same to the bit on every rank
adjoint    dx_i = dy                        nothing: y is replicated, so dy is one tensor, and every addend has it
"""

from __future__ import annotations

from torch import Tensor

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import sum_whole
from autopar.runtime.primitives.autograd import linear

_all_sum = linear(sum_whole, lambda dy, axis: dy)


def all_sum(x: Tensor, axis: Axis) -> Tensor:
    """The sum over the axis of the addends `x`, replicated."""
    return x if axis.size == 1 else _all_sum(x, axis)
