"""Gradients summed over ranks after backward, as one writes it by hand: small ones in one flat buffer, large ones where they lie.

Copying large ones into a flat buffer would cost as much as the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

LARGE = 1 << 18  # elements


def sum_gradients(parameters: Iterable[Tensor], all_reduce: Callable[[Tensor], None]) -> None:
    """Put the sum over the ranks in the place of every gradient."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    small = [gradient for gradient in gradients if gradient.numel() < LARGE]
    for gradient in gradients:
        if gradient.numel() >= LARGE:
            all_reduce(gradient)
    flat = torch.cat([gradient.flatten() for gradient in small])
    all_reduce(flat)
    for gradient, part in zip(small, flat.split([gradient.numel() for gradient in small]), strict=True):
        gradient.copy_(part.view_as(gradient))
