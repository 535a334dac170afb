"""Where a segment begins and ends for autograd, so that nothing is held for its sake but what its calls keep.

A leaf holds its tensor until its gradient is there, a root until its backward, and a gradient that is passed to
`torch.autograd.backward` is held until that returns: activations and gradients that no call of the segment keeps would be held
from F to B, or through all of B. So a segment reads what `Entrance.tensor` gives, which holds no tensor, and ends in a number
without a meaning, whose backward takes the gradient out of its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Entrance:
    """The way of one tensor into a segment, and of its gradient out of it."""

    def __init__(self, tensor: Tensor) -> None:
        self._shape, self._dtype, self._device = tensor.shape, tensor.dtype, tensor.device
        self._found: list[Tensor] = []

    def tensor(self, tensor: Tensor) -> Tensor:
        """The tensor as the segment reads it."""
        anchor = torch.empty(0, requires_grad=True)  # makes that there is a backward
        entered: Tensor = _Entered.apply(anchor, tensor, self._found)  # type: ignore[no-untyped-call]
        return entered

    def gradient(self) -> Tensor:
        """Its gradient once backward has run, given away; zeros where nothing led there."""
        if self._found:
            return self._found.pop()
        return torch.zeros(self._shape, dtype=self._dtype, device=self._device)


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of what a segment has written: a root of its backward, and the place of its gradient."""

    root: Tensor
    place: list[Tensor]

    @staticmethod
    def of(tensor: Tensor) -> Exit:
        """The end of a tensor."""
        place: list[Tensor] = []
        return Exit(_Left.apply(tensor, place), place)  # type: ignore[no-untyped-call]


def roots_of(exits: Sequence[Exit]) -> tuple[list[Tensor], list[Tensor]]:
    """Roots and seeds of the backward pass over exits whose gradients are in their places."""
    roots = [one.root for one in exits]
    return roots, [torch.zeros_like(root) for root in roots]


class _Entered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, tensor: Tensor, found: list[Tensor]) -> Tensor:  # noqa: ANN401 (torch's context)
        ctx.found = found
        return tensor.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:  # noqa: ANN401
        part = gradient.untyped_storage().nbytes() > gradient.nbytes  # of memory that it would keep alive
        ctx.found.append(gradient.clone() if part else gradient)
        return None, None, None


class _Left(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, place: list[Tensor]) -> Tensor:  # noqa: ANN401
        ctx.place = place
        return tensor.new_empty(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return ctx.place.pop(), None
