"""Copied to Replicate: all uses of x are one use from here on.

forward    y = x                            nothing
adjoint    dx_0 = dy,  dx_i = 0 for i > 0   keep: the addends of a gradient that must be counted once
"""

from __future__ import annotations

import torch
from torch import Tensor

from autopar.runtime.grid.grid import Axis
from autopar.runtime.primitives.autograd import linear

_once = linear(lambda x, axis: x.view_as(x), lambda dy, axis: dy if axis.index == 0 else torch.zeros_like(dy))


def once(x: Tensor, axis: Axis) -> Tensor:
    """`x` itself; its gradient is counted on the first rank of the axis only."""
    return x if axis.size == 1 else _once(x, axis)
