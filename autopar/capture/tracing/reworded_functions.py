"""Functions of torch that look at the numbers in a tensor on their way, in words that do not.

bincount(x, w, k)        zeros(k).index_add(0, x, w): a number from k on would make it longer, and is an error of the step
gaussian_nll_loss        raises for a negative variance; here the loss is NaN
cov, corrcoef            raise for negative weights; here the result is NaN
one_hot(x)               of as many classes as the largest number says: refused
torch.distributions      check their arguments; here they do not
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

import autopar.ops.library.row_slices  # noqa: F401  (torch.ops.autopar.within)
from autopar.capture.diagnostics.refusals import DATA_RULE, NotAllowed
from autopar.capture.tracing.patches import patched


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """``torch.bincount`` of `minlength` counts; without one the length is what the numbers make it."""
    if not minlength:
        return torch.bincount(input, weights)
    value = torch.ones_like(input) if weights is None else weights
    dtype = value.dtype if weights is None or value.dtype == torch.float32 else torch.float64
    rows = torch.ops.autopar.within(input.long(), minlength)
    return torch.zeros(minlength, dtype=dtype).index_add(0, rows, value.to(dtype))


def gaussian_nll_loss(input: Tensor, target: Tensor, var: Tensor | float, *args: Any, **options: Any) -> Tensor:  # noqa: ANN401
    """``F.gaussian_nll_loss``, its only look at numbers answered."""
    marked = var.masked_fill(var < 0, torch.nan) if isinstance(var, Tensor) else var
    with patched([(torch, "any", lambda _: False)]):
        return F.gaussian_nll_loss(input, target, marked, *args, **options)


def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """``torch.cov``."""
    factors = [factor for factor in (fweights, aweights) if factor is not None]
    if input.dim() > 2 or any(factor.shape != input.shape[-1:] for factor in factors):
        return torch.cov(input, correction=correction, fweights=fweights, aweights=aweights)  # which says what is wrong
    rows = input.reshape(1, -1) if input.dim() < 2 else input
    if not factors:
        centred = rows - rows.sum(1, keepdim=True) / rows.shape[1]
        return torch.div(centred @ centred.T.conj(), _freedom(rows.shape[1] - correction)).squeeze()
    weights = factors[0] * factors[1] if len(factors) == 2 else factors[0]
    least = torch.stack([factor.min() for factor in factors]).min()
    whole = torch.where(least < 0, torch.nan, weights.sum())
    lost = correction * (weights * factors[-1]).sum() / whole if aweights is not None and correction else correction
    centred = rows - ((rows * weights).sum(1) / whole)[:, None]
    return torch.div(centred @ (centred * weights).T.conj(), (whole - lost).clamp(min=0)).squeeze()


def _freedom(count: int) -> Any:  # noqa: ANN401 (a number, or a multiple of the number of rows)
    return count if count > 0 else 0.0


def corrcoef(input: Tensor) -> Tensor:
    """``torch.corrcoef``."""
    covariance = cov(input)
    if not covariance.dim():
        return covariance / covariance
    deviation = (covariance.diag().real if covariance.is_complex() else covariance.diag()).sqrt()
    scaled = covariance / deviation[:, None] / deviation
    return (
        torch.complex(scaled.real.clip(-1, 1), scaled.imag.clip(-1, 1))
        if covariance.is_complex()
        else scaled.clip(-1, 1)
    )


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """``F.one_hot`` of so many classes. Raises NotAllowed where there are as many as the largest number says."""
    try:
        return F.one_hot(tensor, num_classes)
    except Exception as error:  # one of several kinds, by what cannot be done without the number
        if num_classes != -1:
            raise
        fault = "one_hot() without a number of classes: the shape of its result depends on the values of a tensor"
        raise NotAllowed(fault, DATA_RULE, "say how many classes there are: F.one_hot(x, num_classes)") from error


REWORDED: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.bincount: bincount,
    Tensor.bincount: bincount,
    F.gaussian_nll_loss: gaussian_nll_loss,
    torch.cov: cov,
    Tensor.cov: cov,
    torch.corrcoef: corrcoef,
    Tensor.corrcoef: corrcoef,
    F.one_hot: one_hot,
}


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """While active, torch.distributions do not check the values that they are given."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution._validate_args = before
