"""Replicate to Partial: one rank keeps x, the others hold zeros, so that the sum over the ranks is x.

    forward    y_0 = x,  y_i = 0 for i > 0      no communication
    adjoint    dx  = dy                         nothing: y's gradient is copied, that is, the same on every rank

That the adjoint does not mask: the gradient of a sum is the gradient of each addend, and x, being replicated, has the
gradient of the sum on every rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autopar.runtime.grid.grid import Axis
from autopar.runtime.primitives.autograd import linear

_keep = linear(lambda x, axis: x.view_as(x) if axis.index == 0 else torch.zeros_like(x), lambda dy, axis: dy)


def keep(x: Tensor, axis: Axis) -> Tensor:
    """`x` on the first rank of the axis and zeros on the others: addends of the replicated `x`."""
    return x if axis.size == 1 else _keep(x, axis)
