"""Mean losses over a batch whose samples lie on several ranks: each rank's addend of the mean.

    loss = sum over all samples of l(sample) / N  =  sum over ranks of [ local sum / N ]

N is what torch divides by: the number of samples that are not ignored, or the sum of their class weights. It does not
depend on the logits, so it is summed over the axes without a gradient, and the adjoint is that of the local sum. A rank
without samples, or with ignored ones only, adds zero. The addends are summed by `all_sum` in the program.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from autopar.runtime.grid import Axis


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    over: tuple[Axis, ...] = (),
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """This rank's addend of `torch.nn.functional.cross_entropy` (mean) over the samples of all ranks of `over`.

    `logits` is [sample, class] or [sample, class, ...], `target` holds class indices, or probabilities in the shape of
    `logits`. The result is a scalar Partial over each of the axes.
    """
    total = F.cross_entropy(logits, target, weight, None, ignore_index, None, "sum", label_smoothing)
    with torch.no_grad():
        count = _count(logits, target, weight, ignore_index)
        for axis in over:
            axis.comm.all_reduce(count)
    return total / count.to(total.dtype)


def _count(logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """What torch divides the sum by, for the local samples; float64, in which any count of samples is exact."""
    if target.is_floating_point():
        return torch.tensor(
            float(target.numel() // max(target.shape[min(1, target.dim() - 1)], 1)), dtype=torch.float64
        )
    kept = target != ignore_index
    if weight is None:
        return kept.sum(dtype=torch.float64)
    return weight.detach().double()[target[kept]].sum()
