"""Dropout and other random tensors, each rank drawing its part of them (`autopar.runtime.grid.counter_rng`).

forward    y = x m / (1 - p)        m = 1 with probability 1 - p, else 0
adjoint    dx = dy m / (1 - p)      m is saved, a byte per element
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.grid.counter_rng import draw, skipped
from autopar.runtime.grid.shard_positions import BATCH, Over
from autopar.runtime.primitives.autograd import Context, apply

_NOWHERE: Over = {}
_CPU = torch.device("cpu")
_LIMIT = 1.7580993408473766  # of SELU, with the sign changed


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.arguments = scale
        return (x * mask).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        (mask,), scale = ctx.saved_tensors, ctx.arguments
        return (grad * mask).mul_(scale), None, None


def dropout(x: Tensor, p: float = 0.5, over: Over = _NOWHERE) -> Tensor:
    """`torch.nn.functional.dropout` in training, `x` itself in evaluation. `over` gives the places of the split dims of `x`."""
    return _dropped(x, p, x.shape, over)


def feature_dropout(x: Tensor, p: float = 0.5, over: Over = _NOWHERE) -> Tensor:
    """Dropout of whole channels of `x` [batch, channel, ...], as `torch.nn.Dropout2d` does it."""
    return _dropped(x, p, (*x.shape[:2], *[1] * (x.dim() - 2)), over)


def alpha_dropout(x: Tensor, p: float = 0.5, over: Over = _NOWHERE) -> Tensor:
    """`torch.nn.functional.alpha_dropout`: dropout to the lower limit of SELU that keeps mean and variance.

    With a = ((1 - p) (1 + p c^2))^(-1/2) and c = 1.758..., y = a (x m - c (1 - m) + c p). (G. Klambauer et al., 2017.)
    """
    if p == 0 or skipped():
        return x
    mask = kept(1 - p, x.shape, over, x.device)
    if p == 1:
        return x * 0
    a = ((1 - p) * (1 + p * _LIMIT**2)) ** -0.5
    shifted: Tensor = apply(_Masked, x, mask, a) + (a * _LIMIT) * (mask.to(x.dtype) - (1 - p))
    return shifted


def drop_path(x: Tensor, keep: float, over: Over = _NOWHERE) -> Tensor:
    """Whole samples of `x` [batch, ...] kept with probability `keep`, and scaled by its inverse; `x` itself in evaluation."""
    if skipped():
        return x
    first = {at: over[at] for at in (0, BATCH) if at in over}
    drawn = rand((x.shape[0], *[1] * (x.dim() - 1)), first, x.dtype, x.device)
    return x / keep * torch.floor(drawn + keep)


def _dropped(x: Tensor, p: float, shape: Sequence[int], over: Over) -> Tensor:
    if p == 0 or skipped():
        return x
    mask = kept(1 - p, shape, over, x.device)
    return apply(_Masked, x, mask, 1 / (1 - p) if p < 1 else 0.0)


def kept(probability: float, shape: Sequence[int], over: Over = _NOWHERE, device: torch.device | None = None) -> Tensor:
    """Booleans that are true with this probability: this rank's part, of `shape`."""
    threshold = round(probability * 2**32) - 2**31
    room: list[Tensor] = []  # for the bits of a cell, all of one size

    def sample(cell: Tensor, generator: torch.Generator) -> None:
        if not room:
            room.append(torch.empty(-(-cell.numel() // 2), dtype=torch.int64, device=cell.device))
        bits = room[0].random_(-(2**63), None, generator=generator).view(torch.int32)[: cell.numel()]
        torch.lt(bits, threshold, out=cell) if threshold < 2**31 else cell.fill_(True)

    return draw("bernoulli", sample, shape, over, torch.bool, device or _CPU)


def bernoulli(x: Tensor, p: float, over: Over = _NOWHERE) -> Tensor:
    """`torch.bernoulli` with probability `p`, in shape and dtype of `x`."""
    return kept(p, x.shape, over, x.device).to(x.dtype)


def bernoulli_of(x: Tensor, over: Over = _NOWHERE) -> Tensor:
    """`torch.bernoulli` of the probabilities `x`."""
    return (rand(x.shape, over, x.dtype, x.device) < x).to(x.dtype)


def rand(
    shape: Sequence[int], over: Over = _NOWHERE, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Tensor:
    """`torch.rand`: this rank's part, of `shape`, of uniform numbers in [0, 1)."""
    kind, place = dtype or torch.get_default_dtype(), device or _CPU
    return draw("uniform", lambda cell, source: cell.uniform_(generator=source), shape, over, kind, place)


def randint(
    low: int, high: int, shape: Sequence[int], over: Over = _NOWHERE, dtype: torch.dtype = torch.int64
) -> Tensor:
    """`torch.randint`: this rank's part, of `shape`, of whole numbers from `low` to `high` - 1."""
    kind = f"integers {low} to {high}"
    return draw(kind, lambda cell, source: cell.random_(low, high, generator=source), shape, over, dtype, _CPU)


def exponential_like(x: Tensor, rate: float = 1.0, over: Over = _NOWHERE) -> Tensor:
    """`torch.Tensor.exponential_`: numbers of density rate exp(-rate t), in shape and dtype of `x`, a rank's part."""
    drawn = draw(
        "exponential", lambda cell, source: cell.exponential_(generator=source), x.shape, over, x.dtype, x.device
    )
    return drawn / rate


def rand_like(x: Tensor, over: Over = _NOWHERE) -> Tensor:
    """`torch.rand_like`: uniform numbers in shape and dtype of `x`, a rank's part."""
    return rand(x.shape, over, x.dtype, x.device)


def randn_like(x: Tensor, over: Over = _NOWHERE) -> Tensor:
    """`torch.randn_like`: normal numbers in shape and dtype of `x`, a rank's part."""
    return randn(x.shape, over, x.dtype, x.device)


def randn(
    shape: Sequence[int], over: Over = _NOWHERE, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Tensor:
    """`torch.randn`: this rank's part, of `shape`, of normal numbers."""
    kind, place = dtype or torch.get_default_dtype(), device or _CPU
    return draw("normal", lambda cell, source: cell.normal_(generator=source), shape, over, kind, place)
