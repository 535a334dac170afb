"""Mean and sum of squared deviations of sets of numbers, of which every rank holds some.

Let rank i hold n_i numbers of each set, with mean m_i and sum of squared deviations M_i. One all-gather per axis brings
(n_i, m_i, M_i) together, and every rank combines them alike (Chan, Golub and LeVeque 1979; no difference of large sums):

    n = sum n_i        m = sum n_i m_i / n        M = sum M_i + n_i (m_i - m)^2

What there are few of, the vectors of a number per set, numpy combines, in float64: between two large products nothing of a
step is in the cache, and there a short operation costs half as much in numpy as in torch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autopar.runtime.grid.grid import Axis

Vector = NDArray[np.float64]


def local_moments(x: Tensor) -> tuple[Vector, Vector]:
    """Mean and sum of squared deviations of each channel of `x` [batch, channel, ...], which is not empty.

    Two passes: with c the mean up to rounding and d = x - c, the mean is ``c + sum d / n`` and the squares are
    ``sum d d - (sum d)^2 / n``.
    """
    count = x.numel() // x.shape[1]
    near = x.mean([i for i in range(x.dim()) if i != 1])
    apart, zero = x - near.view(-1, *[1] * (x.dim() - 2)), torch.zeros_like(near)
    squares, rest = channel_sums(apart, apart, zero, zero, 1.0)
    left = rest.double().numpy() / count
    mean = near.numpy()
    return np.where(np.isfinite(mean), mean + left, mean), squares.numpy() - count * left * left


def channel_sums(grad: Tensor, x: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``sum dy (x - m) (v + eps)^(-1/2)`` and ``sum dy`` of each channel, in one pass: a batch norm's ``dw`` and ``db``."""
    _, dw, db = torch.ops.aten.native_batch_norm_backward.default(
        grad, x, None, mean, var, None, None, False, eps, [False, True, True]
    )
    return dw, db


def combine(count: float, mean: Vector, squares: Vector, axes: tuple[Axis, ...]) -> tuple[float, Vector, Vector]:
    """Count, mean and squares of all ranks of the axes together; a rank without numbers has count 0."""
    for axis in axes:
        local = np.concatenate(((count,), mean, squares))
        every = torch.empty(axis.size, len(local), dtype=torch.float64)
        axis.comm.all_gather(torch.from_numpy(local), every)
        table = every.numpy()
        counts, means = table[:, :1], table[:, 1 : 1 + len(mean)]
        count = float(counts.sum())
        with np.errstate(invalid="ignore"):  # infinity from infinity is not a number, as in torch
            mean = (counts * means).sum(0) / max(count, 1.0)
            # Of no numbers the mean is any number, and the square of its distance may be too large to be multiplied by 0.
            apart = np.where(counts == 0, 0, means - mean)
            squares = (table[:, 1 + len(mean) :] + counts * apart**2).sum(0)
    return count, mean, squares
