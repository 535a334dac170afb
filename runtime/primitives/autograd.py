"""A typed door to `torch.autograd.Function`, whose own is untyped, which also notes the line of the program."""

from __future__ import annotations

import sys
from typing import Any, cast

from torch import Tensor
from torch.autograd.function import Function, FunctionCtx

from autopar.runtime.diagnostics import call_site
from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import Cut


class Context(FunctionCtx):
    """What a conversion's forward leaves for its backward; torch makes it, this names its fields."""

    axis: Axis
    cut: Cut
    source: Cut
    target: Cut


def apply(function: type[Function], *arguments: object) -> Tensor:
    """The one result of an autograd function; its context keeps the `site` of the call, for who asks in backward."""
    result = cast("Tensor", function.apply(*arguments))  # type: ignore[no-untyped-call]
    context: Any = result.grad_fn
    if context is not None:
        context.site = call_site.here(sys._getframe(1))
    return result
