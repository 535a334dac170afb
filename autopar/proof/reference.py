"""A sample's call as torch runs it: its tensors filled, its results, and its gradients for drawn cotangents."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from autopar.ir.graph import Node, Ref, Value
from autopar.ops.discovery.trial import differentiated
from autopar.ops.interpreter import operator
from autopar.ops.record.op import Op, Sample, T
from autopar.ops.record.overloads import evaluated
from autopar.ops.record.rule import Call
from autopar.runtime.functional.model_random import ProgramRandom
from autopar.runtime.grid.counter_rng import drawing

REFUSED = (RuntimeError, IndexError, ValueError, TypeError, AssertionError)  # what torch raises for a call that is none


@dataclass(frozen=True, slots=True)
class Whole:
    """A sample's call and everything that the undivided computation gives."""

    call: Call
    operands: tuple[torch.Tensor, ...]
    results: tuple[torch.Tensor, ...]
    cotangents: tuple[torch.Tensor | None, ...]
    gradients: tuple[torch.Tensor | None, ...]


def tensors(argument: object) -> list[T]:
    """The tensors of a sample's argument, in order: itself, or those in its tuples."""
    return [leaf for leaf in tree_leaves(argument) if isinstance(leaf, T)]


def every(result: int) -> bool:
    """All results are read."""
    return True


def filled(tensor: T, generator: torch.Generator) -> torch.Tensor:
    """What a sample's tensor holds, by its kind (`autopar.ops.record.op.T`)."""
    first, _, rest = tensor.kind.partition(" ")
    if first in _NARROW:
        wide = filled(T(tensor.shape, rest or "normal"), generator)
        return wide.detach().to(_NARROW[first]).requires_grad_(wide.requires_grad)
    if first in ("index", "labels", "sorted", "distinct"):
        return _integers(first, tensor.shape, int(rest), generator)
    return _others(first, tensor.shape, rest, generator)


_NARROW = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _integers(kind: str, shape: tuple[int, ...], below: int, generator: torch.Generator) -> torch.Tensor:
    if kind == "distinct":
        assert shape[-1] <= below, f"{shape[-1]} distinct numbers below {below}"
        return torch.rand((*shape[:-1], below), generator=generator).argsort(-1)[..., : shape[-1]].contiguous()
    drawn = torch.randint(below, shape, generator=generator)
    if kind == "labels":
        return drawn.masked_fill(torch.rand(shape, generator=generator) < 0.25, -100)
    return drawn.sort(-1).values if kind == "sorted" else drawn


def _others(kind: str, shape: tuple[int, ...], rest: str, generator: torch.Generator) -> torch.Tensor:
    if kind in ("bool", "mask"):
        drawn = torch.rand(shape, generator=generator) < 0.6
        return drawn if kind == "bool" else drawn | (torch.arange(shape[-1]) == 7 % shape[-1])
    if kind in ("normal", "constant", "complex"):
        dtype = torch.complex128 if kind == "complex" else torch.float64
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_(kind != "constant")
    if kind == "definite":
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (drawn @ drawn.mT + torch.eye(shape[-1], dtype=torch.float64)).requires_grad_()
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    if kind == "unit":
        return (0.1 + 0.8 * uniform).requires_grad_()
    assert kind in ("positive", "probabilities"), f"no kind of tensor is called {kind}"
    return uniform + 0.5 if kind == "positive" else (uniform + 0.5) / (uniform + 0.5).sum(int(rest), keepdim=True)


def outcome(op: Op, sample: Sample) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
    """The operands of the sample, and what they give."""
    operands, _, results = _run(op, sample, torch.Generator().manual_seed(7), filled)
    return operands, results


def _run(
    op: Op, sample: Sample, generator: torch.Generator, fill: Callable[[T, torch.Generator], torch.Tensor]
) -> tuple[list[torch.Tensor], Node, tuple[torch.Tensor, ...]]:
    """The operands, the call as a node without results, and its results."""
    operands: list[torch.Tensor] = []

    def plain(argument: Any) -> Any:  # noqa: ANN401
        if isinstance(argument, T):
            operands.append(fill(argument, generator))
            return Ref(f"x{len(operands) - 1}")
        return tuple(map(plain, argument)) if isinstance(argument, tuple) else argument

    args = tuple(plain(argument) for argument in sample.args)
    kwargs = tuple((name, plain(value)) for name, value in sample.kwargs)
    target = sample.target or op.targets[0]
    values = {f"x{i}": tensor for i, tensor in enumerate(operands)}
    with drawing(0, 0), ProgramRandom() if op.random else nullcontext():
        out: Any = operator(target)(
            *(evaluated(a, values) for a in args), **{k: evaluated(v, values) for k, v in kwargs}
        )
    results: tuple[torch.Tensor, ...] = (out,) if isinstance(out, torch.Tensor) else tuple(out)
    return operands, Node("call", target, args, kwargs, ()), results


def whole_of(
    op: Op,
    sample: Sample,
    read: Callable[[int], bool] = every,
    fill: Callable[[T, torch.Generator], torch.Tensor] = filled,
) -> Whole:
    """Run the sample undivided. `read` says which results somebody reads; the others have no name. `fill` makes operands."""
    generator = torch.Generator().manual_seed(7)
    operands, node, results = _run(op, sample, generator, fill)
    names = tuple(f"y{i}" if read(i) else "" for i in range(len(results)))
    call = Call(
        replace(node, outputs=names),
        tuple(_value(f"x{i}", tensor) for i, tensor in enumerate(operands)),
        tuple(
            _value(name, tensor) if name else Value("", (), "float32", False)
            for name, tensor in zip(names, results, strict=True)
        ),
    )
    flows = [bool(name) and tensor.requires_grad for name, tensor in zip(names, results, strict=True)]
    cotangents = tuple(
        torch.randn(r.shape, generator=generator, dtype=r.dtype) if f else None
        for r, f in zip(results, flows, strict=True)
    )
    gradients = differentiated(results, cotangents, operands)
    detached = tuple(result.detach() for result in results)
    return Whole(call, tuple(t.detach() for t in operands), detached, cotangents, gradients)


def _value(name: str, tensor: torch.Tensor) -> Value:
    return Value(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.requires_grad)
