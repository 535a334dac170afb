"""Autograd functions: a linear operator from its forward and its adjoint, and a typed door to torch's own, which is untyped.

Both note the line of the program that has called them, for whoever asks in backward.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, cast

from torch import Tensor
from torch.autograd.function import Function, FunctionCtx, once_differentiable

from autopar.runtime.diagnostics import call_site

P = ParamSpec("P")


class Context(FunctionCtx):
    """What a forward leaves for its backward; torch makes it, this names its fields."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    arguments: Any  # a tuple of what is no tensor


def linear(
    forward: Callable[Concatenate[Tensor, P], Tensor], adjoint: Callable[Concatenate[Tensor, P], Tensor]
) -> Callable[Concatenate[Tensor, P], Tensor]:
    """The operator ``y = forward(x, *arguments)``, linear in x, whose backward is ``dx = adjoint(dy, *arguments)``.

    `arguments` are no tensors. Not to be differentiated twice.
    """

    class Linear(Function):
        @staticmethod
        def forward(ctx: Context, x: Tensor, *arguments: Any) -> Tensor:  # noqa: ANN401 (those of P)
            ctx.arguments = arguments
            return forward(x, *arguments)  # type: ignore[call-arg]  # all are given by position

        @staticmethod
        @once_differentiable
        def backward(ctx: Context, dy: Tensor) -> tuple[Tensor | None, ...]:
            return adjoint(dy, *ctx.arguments), *(None,) * len(ctx.arguments)  # type: ignore[call-arg]

    def operator(x: Tensor, /, *arguments: P.args, **_: P.kwargs) -> Tensor:
        result = cast("Tensor", Linear.apply(x, *arguments))  # type: ignore[no-untyped-call]
        if result.grad_fn is not None:
            result.grad_fn.site = call_site.here(sys._getframe(1))  # type: ignore[attr-defined]
        return result

    return operator


def apply(function: type[Function], *arguments: object) -> Tensor:
    """The one result of an autograd function; its context keeps the `site` of the call, for who asks in backward."""
    result = cast("Tensor", function.apply(*arguments))  # type: ignore[no-untyped-call]
    context: Any = result.grad_fn
    if context is not None:
        context.site = call_site.here(sys._getframe(1))
    return result
