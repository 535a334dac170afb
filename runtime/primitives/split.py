"""Replicate to Shard: every rank keeps its part.

With x on every rank and P_i the slice of rank i, all uses of x are one use, and so its gradient is one tensor to which
every rank contributes the part it computed:

    forward    y_i = P_i x                      no communication
    adjoint    dx  = sum_i P_i* dy_i            all-gather: the parts are disjoint, so the sum is a concatenation
"""

from __future__ import annotations

from torch import Tensor

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import bounds_of_whole, gather_parts
from autopar.runtime.primitives.autograd import linear

_split = linear(lambda x, axis, bounds: bounds.part(x, axis.index), gather_parts)


def split(x: Tensor, dim: int, axis: Axis, blocks: int = 1, unit: int = 1) -> Tensor:
    """This rank's part of `dim` of the replicated `x`; the dim is read as ``blocks x m x unit`` and m is bounds."""
    return x if axis.size == 1 else _split(x, axis, bounds_of_whole(x, dim, axis, blocks, unit))
