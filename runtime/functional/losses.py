"""Losses whose samples, or whose classes, lie on several ranks: each rank's addend of the loss.

Samples. A mean is a sum over a count: each rank adds up its own samples and divides by the count of all,

    loss = sum over all samples of l(sample) / N  =  sum over ranks of [ local sum / N ]

N is what torch divides by: the number of samples that are not ignored, or the sum of their class weights. It does not
depend on the logits, so it is summed over the axes without a gradient, and the adjoint is that of the local sum. A rank
without samples, or with ignored ones only, adds zero.

Classes (a split vocabulary). No rank ever sees all logits x of a sample. Each has the log-sum-exp of its own columns, and one
all-gather of these, one number per sample and rank, gives z = log sum_c exp x_c. With p_c the target's probability of
class c (of a hard target one class, smoothed or not, times the class weights), each rank adds its own columns:

    forward    l = sum_c p_c (z - x_c)          the rank that holds the target's column contributes z - x_target
    adjoint    dx_c = dl (P s_c - p_c)          s = exp(x - z) the softmax, P = sum of p_c over all columns

P is 1 for hard targets without class weights, and else a sum over the axes of one number per sample. All addends are
summed by `all_sum` in the program.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.functional.across_ranks import log_sum_exp, summed
from autopar.runtime.functional.embedding import own_rows
from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_positions import Place, axes_of, extent_of
from autopar.runtime.local.autocast import in_float32, wide_dtype
from autopar.runtime.primitives.autograd import Context, apply


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    over: tuple[Axis, ...] = (),
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    classes: Place | None = None,
) -> Tensor:
    """This rank's addend of `torch.nn.functional.cross_entropy`.

    `logits` is [class], [sample, class] or [sample, class, ...], `target` holds class indices, or probabilities in the
    shape of `logits`. `over` are the axes that split the samples, `classes` is the place of this rank's columns, which
    `weight` and probabilities are parts of alike. The result is a scalar (per sample, for the reduction ``"none"``), Partial
    over each of the axes that cut the classes and, a scalar, over those of the samples.
    """
    logits = in_float32(logits)
    if classes is None:
        kind = "none" if reduction == "none" else "sum"
        total = F.cross_entropy(logits, target, weight, None, ignore_index, None, kind, label_smoothing)
    else:
        total = apply(_OverClasses, logits, target, weight, ignore_index, label_smoothing, classes)
    return _reduced(total, reduction, target, over, weight, ignore_index, classes)


def nll_loss(
    logs: Tensor,
    target: Tensor,
    over: tuple[Axis, ...] = (),
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    classes: Place | None = None,
) -> Tensor:
    """This rank's addend of `torch.nn.functional.nll_loss` of log probabilities; see `cross_entropy`."""
    logs = in_float32(logs)
    if classes is None:
        total = F.nll_loss(logs, target, weight, None, ignore_index, None, "none" if reduction == "none" else "sum")
    else:
        place, mine = _own_classes(target, ignore_index, classes)
        total = -_weights(weight, place, mine).to(logs.dtype) * _picked(logs, place, mine)
    return _reduced(total, reduction, target, over, weight, ignore_index, classes)


def _reduced(
    losses: Tensor,
    reduction: str,
    target: Tensor,
    over: tuple[Axis, ...],
    weight: Tensor | None,
    ignore_index: int,
    classes: Place | None,
) -> Tensor:
    """The addends of the samples, or their sum, under the reduction."""
    total = losses if reduction == "none" or not losses.dim() else losses.sum()
    if reduction != "mean":
        return total
    with torch.no_grad():
        count = summed(_count(target, weight, ignore_index, classes), over)
    return total / count.to(total.dtype)


def _count(target: Tensor, weight: Tensor | None, ignore_index: int, classes: Place | None = None) -> Tensor:
    """What torch divides the sum by, for the local samples; float64, in which any count of samples is exact."""
    if target.is_floating_point():
        at = min(1, target.dim() - 1)
        samples = math.prod(n for dim, n in enumerate(target.shape) if dim != at)
        return torch.tensor(float(samples), dtype=torch.float64, device=target.device)
    kept = target != ignore_index
    if weight is None:
        return kept.sum(dtype=torch.float64)
    if classes is None:
        return weight.detach().double()[target[kept]].sum()
    place, mine = own_rows(target[kept], classes)
    return summed(weight.detach().double()[place[mine]].sum(), axes_of(classes))


def sample_count(target: Tensor, weight: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    """What `torch.nn.functional.cross_entropy` divides a mean over these class indices by, as a float64 scalar.

    It is the number of samples that are not ignored, or with class weights the sum of theirs.
    """
    with torch.no_grad():
        return _count(target, weight, ignore_index)


def _picked(x: Tensor, place: Tensor, mine: Tensor) -> Tensor:
    """The entry of each sample's own column, zero where another rank has it."""
    at = min(1, x.dim() - 1)
    if not x.shape[at]:
        return x.sum(at)  # zeros that depend on x, so that backward reaches it
    return x.gather(at, place.where(mine, 0).unsqueeze(at)).squeeze(at).masked_fill(~mine, 0)


def _own_classes(target: Tensor, ignore_index: int, classes: Place) -> tuple[Tensor, Tensor]:
    """The column of each sample's class on this rank, and whether it is here and counts."""
    place, mine = own_rows(target, classes)
    return place, mine & (target != ignore_index)


def _weights(weight: Tensor | None, place: Tensor, mine: Tensor) -> Tensor:
    """The class weight of each sample whose class is here, zero elsewhere."""
    if weight is None:
        return mine.to(torch.get_default_dtype())
    return _picked(weight.expand(place.numel(), -1), place.reshape(-1), mine.reshape(-1)).view(place.shape)


class _OverClasses(torch.autograd.Function):
    """Per sample this rank's addend of the loss; samples that are ignored have zero."""

    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        smoothing: float,
        classes: Place,
    ) -> Tensor:
        ctx.arguments = ignore_index, smoothing, classes
        at = min(1, x.dim() - 1)
        wide = x.to(wide_dtype(x.dtype))
        z = log_sum_exp(torch.logsumexp(wide, at), axes_of(classes))
        z.masked_fill_(z == math.inf, math.nan)  # log_softmax takes infinity from infinity
        soft = target.is_floating_point()
        loss, total = (_soft if soft else _hard)(wide, z, target, weight, ignore_index, smoothing, classes)
        ctx.save_for_backward(x, target, z, total, *(() if weight is None else (weight,)))
        return loss.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, target, z, total, *weights), (ignore_index, smoothing, classes) = ctx.saved_tensors, ctx.arguments
        weight, rest = weights[0] if weights else None, smoothing / extent_of(classes)
        at = min(1, x.dim() - 1)
        wide, grad = (t.to(wide_dtype(t.dtype)) for t in (x, grad))
        if not target.is_floating_point():  # nothing counts: an infinite gradient, and zeros for the logits
            grad = grad.masked_fill(target == ignore_index, 0)
        dx = (wide - z.unsqueeze(at)).exp_().mul_((total * grad).unsqueeze(at))
        into = None
        if target.is_floating_point():
            scale = grad.unsqueeze(at) if weight is None else grad.unsqueeze(at) * _columns(weight, x)
            dx -= (target * (1 - smoothing) + rest) * scale
            if ctx.needs_input_grad[1]:
                into = ((z.unsqueeze(at) - wide) * scale * (1 - smoothing)).to(target.dtype)
        else:
            place, mine = _own_classes(target, ignore_index, classes)
            own = _weights(weight, place, mine) * grad * (1 - smoothing)
            if dx.shape[at]:
                dx.scatter_add_(at, place.where(mine, 0).unsqueeze(at), -own.to(dx.dtype).unsqueeze(at))
            if smoothing:
                kept = grad.unsqueeze(at) * rest
                dx -= kept if weight is None else kept * _columns(weight, x)
        return dx.to(x.dtype), into, None, None, None, None


def _hard(
    x: Tensor, z: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, classes: Place
) -> tuple[Tensor, Tensor]:
    """The addends of the samples, and the sums P over all classes, of targets that are class indices."""
    at = min(1, x.dim() - 1)
    place, mine = _own_classes(target, ignore_index, classes)
    own = _weights(weight, place, mine).to(x.dtype)
    kept = (target != ignore_index).to(x.dtype)
    loss = own * (z - _picked(x, place, mine)) * (1 - smoothing)
    total = (kept if weight is None else summed(own.clone(), axes_of(classes))) * (1 - smoothing)
    if smoothing:
        each, extent = z.unsqueeze(at) - x, extent_of(classes)
        every = float(extent)
        if weight is not None:
            each = each * _columns(weight, x)
            every = float(summed(weight.detach().double().sum(), axes_of(classes)))
        loss = loss + each.sum(at) * kept * (smoothing / extent)
        total = total + kept * (smoothing / extent * every)
    return loss, total


def _soft(
    x: Tensor, z: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, classes: Place
) -> tuple[Tensor, Tensor]:
    """The same for targets that are probabilities."""
    at = min(1, x.dim() - 1)
    p = target.to(x.dtype) * (1 - smoothing) + smoothing / extent_of(classes)
    if weight is not None:
        p = p * _columns(weight, x)
    return (p * (z.unsqueeze(at) - x)).sum(at), summed(p.sum(at), axes_of(classes))


def _columns(weight: Tensor, x: Tensor) -> Tensor:
    """Class weights beside logits."""
    return weight.view(-1, *[1] * (x.dim() - 2)) if x.dim() > 2 else weight
