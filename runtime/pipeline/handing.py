"""A loss whose gradients are known already: its backward hands them to autograd, as those of any other loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def hand_over(loss: Tensor, gradients: list[Tensor | None], parameters: Sequence[Tensor], seed: float = 1.0) -> Tensor:
    """The loss, of which autograd knows that it depends on the parameters by these gradients, computed for this `seed`.

    They are handed over once, so that no copy is made; nobody else should hold the list.
    """
    here = torch.zeros((), requires_grad=True)  # there may be no parameter
    handed: Tensor = _Handed.apply(loss, gradients, seed, here, *parameters)  # type: ignore[no-untyped-call]
    return handed


class _Handed(torch.autograd.Function):
    """The loss; its backward gives every parameter the gradient that is there already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], seed: float, *parameters: Tensor) -> Tensor:  # noqa: ANN401
        ctx.gradients, ctx.seed = gradients, seed
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        if ctx.gradients is None:
            raise RuntimeError("backward through the loss of a step a second time: its gradients are handed over")
        factor = grad / ctx.seed
        scaled = [one if one is None or factor == 1 else one * factor for one in ctx.gradients]
        ctx.gradients.clear()
        ctx.gradients = None
        return None, None, None, None, *scaled
