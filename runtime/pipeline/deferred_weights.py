"""Weight gradients apart from input gradients, so that they can be an action of their own (W).

    y = x W^T        B: dx = dy W        W: dW = dy^T x        (linear; products and convolutions likewise)

Nobody waits for dW but the optimizer, while dx is what the position before waits for: who computes dx first, and dW where it
would be idle, has no bubble (Zero Bubble, arXiv 2401.10241).

While a segment that has W actions computes forward, a `TorchFunctionMode` looks at its calls of `F.linear`, `@` and `F.conv1d` to
`F.conv3d`. An operand that is made of trained parameters alone, a parameter itself or one that was gathered or transposed, is a
weight: the call is then made by an autograd function whose backward gives the gradient of the input at once, and keeps what
the gradient of the weight is computed from. So programs stay as their users read and edit them, every program has what it
defers, and programs without W actions pay nothing.

What is not seen (a convolution of split images, calls under autocast) has its weight gradients in B, where they are as right.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

_engine: Any = torch.autograd.Variable._execution_engine
_NODES = 32  # that may lie between parameters and a weight made of them


@dataclass(frozen=True, slots=True)
class _WeightCall:
    """A call that may defer: its weight and bias, and what it computes of input and weight."""

    weight: Tensor
    bias: Tensor | None
    forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    input_gradient: Callable[[Tensor, Tensor, Tensor], Tensor]  # of input, weight, gradient of the result
    weight_gradient: Callable[
        [Tensor, Tensor, Tensor], Tensor | tuple[Tensor, Tensor]
    ]  # of the same; or two factors of it
    features: int  # the dim of the result along which the bias lies

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """Weight, and bias where there is one."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def gradients(self, x: Tensor, gradient: Tensor) -> Iterator[tuple[Tensor, Tensor | tuple[Tensor, Tensor]]]:
        """Weight and bias with their gradients, or two factors of these, those of both that have one."""
        if self.weight.requires_grad:
            yield self.weight, self.weight_gradient(x, self.weight.detach(), gradient)
        if self.bias is not None and self.bias.requires_grad:
            others = [dim for dim in range(gradient.dim()) if dim != self.features % gradient.dim()]
            yield self.bias, gradient.sum(others) if others else gradient.clone()


_Found = tuple[Tensor, _WeightCall]  # the input of a call, and the call


class DeferredWeights:
    """What one segment leaves for the W of one micro-batch; `trained` are the parameters' leaves."""

    def __init__(self, trained: Sequence[Tensor]) -> None:
        self._trained = {id(leaf) for leaf in trained}
        self._kept: deque[tuple[_WeightCall, Tensor, Tensor]] = deque()  # with input and gradient
        self._made: list[Tensor] = []  # weights that are no parameters themselves
        self.anchor = torch.empty(0, requires_grad=True)  # makes that a call has a backward, whatever its input is

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Calls in this context defer. Backward is to run in one as well: it may compute parts of forward again."""
        with _Deferring(self):
            yield

    def backward(self, roots: Sequence[Tensor], seeds: Sequence[Tensor]) -> None:
        """Everything but the gradients that are deferred."""
        again = bool(self._made) and _reach(roots, {tensor.grad_fn for tensor in self._made})
        with self.watching():  # which `torch.autograd.backward`, a call as others are, would leave for its time
            _engine.run_backward(
                tuple(roots), tuple(seeds), again, False, (), allow_unreachable=True, accumulate_grad=True
            )

    def finish(self) -> None:
        """The gradients that were deferred: those of parameters one by one, those of what was made of them together."""
        while self._kept:
            made: dict[Tensor, Tensor] = {}
            with torch.no_grad():
                while self._kept:
                    call, x, gradient = self._kept.popleft()
                    for operand, own in call.gradients(x, gradient):
                        if operand.grad_fn is None:
                            operand.grad = _added(operand, operand.grad, own)
                        else:
                            made[operand] = _added(operand, made.get(operand), own)
            if made:  # what this passes may have been deferred in its turn
                torch.autograd.backward(list(made), list(made.values()))
        self._made.clear()

    def keep(self, call: _WeightCall, x: Tensor, gradient: Tensor) -> None:
        """Called in backward."""
        self._kept.append((call, x, gradient))

    def defers(self, call: _WeightCall) -> bool:
        """Whether a call is to defer."""
        operands = call.operands
        if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            return False
        if not any(one.requires_grad for one in operands) or not all(map(self._is_weight, operands)):
            return False
        self._made += [one for one in operands if one.grad_fn is not None]
        return True

    def _is_weight(self, operand: Tensor) -> bool:
        """Whether an operand is made of parameters alone."""
        if not operand.requires_grad or operand.grad_fn is None:
            return not operand.requires_grad or id(operand) in self._trained
        if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            return False  # it is made again in backward: kept for W, it would be held twice
        todo, seen = [operand.grad_fn], {operand.grad_fn}
        while todo and len(seen) <= _NODES:
            node = todo.pop()
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) not in self._trained:
                return False
            before = {following for following, _ in node.next_functions if following is not None} - seen
            if variable is None and not before:
                return False
            seen |= before
            todo += before
        return not todo


class _Deferring(TorchFunctionMode):
    """Makes the calls that are to defer."""

    def __init__(self, deferred: DeferredWeights) -> None:
        super().__init__()
        self._deferred = deferred

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (torch's own signature)
        found = _CALLS[func](*args, **(kwargs or {})) if func in _CALLS else None
        if found is None or not self._deferred.defers(found[1]):
            return func(*args, **(kwargs or {}))
        x, call = found
        bias = None if call.bias is None else call.bias.detach()
        return _Deferred.apply(self._deferred.anchor, x, call.weight.detach(), bias, call, self._deferred)  # type: ignore[no-untyped-call]


class _Deferred(torch.autograd.Function):
    """A call whose backward keeps what the weights' gradients need."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context)
        anchor: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        call: _WeightCall,
        deferred: DeferredWeights,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.call, ctx.deferred = call, deferred
        return call.forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        ctx.deferred.keep(ctx.call, x, gradient)
        own = ctx.call.input_gradient(x, weight, gradient) if ctx.needs_input_grad[1] else None
        return None, own, None, None, None, None


def _rows(x: Tensor) -> Tensor:
    """As a matrix of its last dim, which may be empty."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Found:
    call = _WeightCall(
        weight,
        bias,
        F.linear,
        lambda x, w, gradient: gradient @ w,
        lambda x, _, gradient: (_rows(gradient).T, _rows(x)),
        -1,
    )
    return input, call


def _product(input: Tensor, other: Tensor) -> _Found | None:
    if input.dim() < 2 or other.dim() != 2:
        return None
    call = _WeightCall(
        other,
        None,
        lambda x, w, _: x @ w,
        lambda x, w, gradient: gradient @ w.T,
        lambda x, _, gradient: (_rows(x).T, _rows(gradient)),
        -1,
    )
    return input, call


def _convolution(dims: int) -> Callable[..., _Found | None]:
    def found(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> _Found | None:
        if isinstance(padding, str) or input.dim() != dims + 2:
            return None
        steps, pads, spread = (
            [one] * dims if isinstance(one, int) else list(one) for one in (stride, padding, dilation)
        )
        window = (steps, pads, spread, False, [0] * dims, groups)

        def back(x: Tensor, w: Tensor, gradient: Tensor, mine: int) -> Tensor:
            mask = [mine == 0, mine == 1, False]
            made: Tensor = torch.ops.aten.convolution_backward(gradient, x, w, None, *window, mask)[mine]
            return made

        call = _WeightCall(
            weight,
            bias,
            lambda x, w, b: torch.convolution(x, w, b, *window),
            lambda x, w, gradient: back(x, w, gradient, 0),
            lambda x, w, gradient: back(x, w, gradient, 1),
            1,
        )
        return input, call

    return found


_CALLS: Mapping[Any, Callable[..., _Found | None]] = {
    F.linear: _linear,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm), _product),
    **{call: _convolution(dims) for dims, call in ((1, F.conv1d), (2, F.conv2d), (3, F.conv3d))},
}


def _added(operand: Tensor, known: Tensor | None, own: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """A gradient with an addend, or the product of two factors, added to what is known of it; as the operand lies in memory."""
    if isinstance(own, tuple):
        return own[0] @ own[1] if known is None else known.addmm_(*own)
    if known is not None:
        return known.add_(own)
    return own if own.stride() == operand.stride() else torch.empty_like(operand).copy_(own)


def _reach(roots: Sequence[Tensor], nodes: set[Any]) -> bool:
    """Whether backward from these roots passes one of the nodes."""
    todo = [root.grad_fn for root in roots]
    seen: set[Any] = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        if node in nodes:
            return True
        seen.add(node)
        todo += [following for following, _ in node.next_functions]
    return False
