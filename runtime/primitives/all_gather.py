"""Shard to Copied: the parts of all ranks, and each rank's use of the whole is its own.

    forward    y_j = sum_i P_i* x_i             all-gather
    adjoint    dx_i = P_i sum_j dy_j            reduce-scatter: rank j's gradient dy_j is an addend

This is how a parameter that is stored in parts is used whole (ZeRO, FSDP).
"""

from __future__ import annotations

from torch import Tensor

from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import bounds_of_part, gather_parts, sum_parts
from autopar.runtime.primitives.autograd import linear

_all_gather = linear(gather_parts, sum_parts)


def all_gather(x: Tensor, dim: int, axis: Axis, extent: int, blocks: int = 1, unit: int = 1) -> Tensor:
    """The whole tensor, copied, of which `x` is this rank's part; `extent` is the whole extent of `dim`."""
    bounds = bounds_of_part(x, dim, axis, extent, blocks, unit)
    return x if axis.size == 1 else _all_gather(x, axis, bounds)
