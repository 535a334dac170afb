"""Shard to Replicate: the parts of all ranks, one after another.

forward    y   = sum_i P_i* x_i             all-gather
adjoint    dx_i = P_i dy                    slice: y is replicated, so dy is the same on every rank
"""

from __future__ import annotations

from torch import Tensor

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import bounds_of_part, gather_parts
from autopar.runtime.primitives.autograd import linear

_gather = linear(gather_parts, lambda dy, axis, bounds: bounds.part(dy, axis.index))


def gather(x: Tensor, dim: int, axis: Axis, extent: int, blocks: int = 1, unit: int = 1) -> Tensor:
    """The whole tensor, replicated, of which `x` is this rank's part; `extent` is the whole extent of `dim`."""
    bounds = bounds_of_part(x, dim, axis, extent, blocks, unit)
    return x if axis.size == 1 else _gather(x, axis, bounds)
