"""Running sums along a dim whose rows are split over an axis.

Rank r holds the rows x_r, with t_r their sum:

    forward    y_r  = cumsum(x_r) + sum of t_q over q < r           one all-gather of the ranks' sums
    adjoint    dx_r = reverse cumsum(dy_r) + sum of u_q over q > r  u_q the sum of dy_q, gathered the same way
"""

from __future__ import annotations

import torch
from torch import Tensor

from autopar.runtime.functional.across_ranks import gathered
from autopar.runtime.grid.grid import Axis
from autopar.runtime.primitives.autograd import linear


def cumsum(x: Tensor, dim: int, axis: Axis, dtype: torch.dtype | None = None) -> Tensor:
    """``x.cumsum(dim, dtype=dtype)`` of the rows of all ranks of `axis`, of which `x` holds this rank's."""
    return _scan(x, dim, axis, dtype, x.dtype)


def _sums(x: Tensor, dim: int, axis: Axis, dtype: torch.dtype | None, own_dtype: torch.dtype) -> Tensor:
    y = x.cumsum(dim, dtype=dtype)
    return y + gathered(x.sum(dim, keepdim=True, dtype=y.dtype), axis)[: axis.index].sum(0, dtype=y.dtype)


def _sums_back(dy: Tensor, dim: int, axis: Axis, dtype: torch.dtype | None, own_dtype: torch.dtype) -> Tensor:
    after = gathered(dy.sum(dim, keepdim=True), axis)[axis.index + 1 :].sum(0)
    return (dy.flip(dim).cumsum(dim).flip(dim) + after).to(own_dtype)


_scan = linear(_sums, _sums_back)
