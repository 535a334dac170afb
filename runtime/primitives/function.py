"""A typed door to `torch.autograd.Function`, whose own is untyped."""

from __future__ import annotations

from typing import cast

from torch import Tensor
from torch.autograd.function import Function, FunctionCtx

from autopar.runtime.grid import Axis
from autopar.runtime.primitives.cut import Cut


class Context(FunctionCtx):
    """What a conversion's forward leaves for its backward; torch makes it, this names its fields."""

    axis: Axis
    cut: Cut
    source: Cut
    target: Cut


def apply(function: type[Function], *arguments: object) -> Tensor:
    """The one result of an autograd function."""
    return cast("Tensor", function.apply(*arguments))  # type: ignore[no-untyped-call]
