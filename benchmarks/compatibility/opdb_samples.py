"""PyTorch's operator database as models: the samples of an operator are the calls of one module, which returns a loss.

    operators() -> {"cat": OpInfo, ...}
    samples_of(info, count) -> [Sample, ...]     spread over all that the database has
    Calls([sample, ...])                         a module whose loss weights every element of every result differently

Of a sample's tensors that have a gradient, the first is an input plus a parameter of zeros, and so may come in parts;
the others are parameters. Other tensors are buffers if they are floating (running statistics are, and calls write to them), or
else inputs.
"""

from __future__ import annotations

import itertools
import sys
import types
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

MOST = 400  # samples that are looked at
DTYPES = (torch.float64, torch.complex128, torch.int64, torch.bool, torch.float32, torch.uint8)


def operators() -> dict[str, Any]:
    """The operators of the database by name, variants with theirs behind a dot."""
    if "expecttest" not in sys.modules:  # torch's own test package asks for it, and uses it in tests only
        try:
            import expecttest  # noqa: F401
        except ModuleNotFoundError:
            sys.modules["expecttest"] = types.ModuleType("expecttest")
            sys.modules["expecttest"].TestCase = unittest.TestCase  # type: ignore[attr-defined]
    from torch.testing._internal.common_methods_invocations import op_db

    return {info.name + (f".{info.variant_test_name}" if info.variant_test_name else ""): info for info in op_db}


@dataclass(frozen=True, slots=True)
class DatabaseSample:
    """One call: the function, its arguments as a flat list, and how they are put together again."""

    function: Callable[..., Any]
    leaves: tuple[Any, ...]
    spec: Any

    def call(self, leaves: list[Any]) -> list[Tensor]:
        """The tensors that the call returns."""
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        out = self.function(*args, **kwargs)
        return [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]


def samples_of(info: Any, count: int) -> list[DatabaseSample]:  # noqa: ANN401 (torch's OpInfo)
    """As many samples, evenly spread; with gradients where the operator has any."""
    torch.manual_seed(0)
    dtype, gradients = _dtype(info)
    listed = list(itertools.islice(info.sample_inputs("cpu", dtype, requires_grad=gradients), MOST))
    places = (
        dict.fromkeys(i * len(listed) // count for i in range(count)) if len(listed) > count else range(len(listed))
    )
    return [_sample(info, listed[i]) for i in places]


def _dtype(info: Any) -> tuple[torch.dtype, bool]:  # noqa: ANN401
    for dtype in DTYPES[:2]:
        if info.supports_autograd and dtype in info.supported_backward_dtypes("cpu"):
            return dtype, True
    supported = info.supported_dtypes("cpu")
    return next(dtype for dtype in (*DTYPES, *supported) if dtype in supported), False


def _sample(info: Any, sample: Any) -> DatabaseSample:  # noqa: ANN401
    after = sample.output_process_fn_grad

    def function(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return after(info.op(*args, **kwargs))

    leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), sample.kwargs))
    return DatabaseSample(function, tuple(leaves), spec)


class Does(nn.Module):
    """The call itself: what it is captured as is marked by this module's name."""

    def __init__(self, sample: DatabaseSample) -> None:
        super().__init__()
        self.sample = sample

    def forward(self, leaves: list[Any]) -> list[Tensor]:
        return self.sample.call(leaves)


class SampleCall(nn.Module):
    """One sample; its parameters are named by their place among the arguments."""

    def __init__(self, sample: DatabaseSample) -> None:
        super().__init__()
        self.sample = sample
        self.does = Does(sample)
        self.given: dict[int, Tensor] = {}
        self.first = -1
        for i, leaf in enumerate(sample.leaves):
            if isinstance(leaf, Tensor):
                self._take(i, leaf.detach().clone(), leaf.requires_grad)
        kept = {name: buffer.clone() for name, buffer in self.named_buffers()}
        for j, weights in enumerate(map(_weights, self.results(self.given))):
            self.register_buffer(f"weights{j}", weights, persistent=False)
        for name, buffer in kept.items():
            getattr(self, name).copy_(buffer)

    def _take(self, i: int, tensor: Tensor, differentiable: bool) -> None:
        if tensor.is_floating_point() and not differentiable:
            self.register_buffer(f"x{i}", tensor)
        elif not differentiable:
            self.given[i] = tensor
        elif self.first < 0:
            self.first, self.given[i] = i, tensor
            self.register_parameter(f"x{i}", nn.Parameter(torch.zeros_like(tensor)))
        else:
            self.register_parameter(f"x{i}", nn.Parameter(tensor))

    def results(self, known: dict[int, Tensor]) -> list[Tensor]:
        leaves = list(self.sample.leaves)
        for i, leaf in enumerate(leaves):
            if i == self.first:
                leaves[i] = known[i] + getattr(self, f"x{i}")
            elif isinstance(leaf, Tensor):
                leaves[i] = known[i] if i in known else getattr(self, f"x{i}")
        tensors: list[Tensor] = self.does(leaves)
        return tensors

    def forward(self, given: dict[int, Tensor]) -> list[Tensor]:
        return self.results(given)


def _weights(result: Tensor) -> Tensor | None:
    """Another number for every element, neither small nor alike; None where no gradient flows."""
    if not result.requires_grad:
        return None
    place = torch.arange(result.numel(), dtype=torch.float64).reshape(result.shape)
    weights = torch.cos(place * 0.7 + 0.3) + 1.5
    if result.is_complex():
        return torch.complex(weights, torch.sin(place * 0.9)).to(result.dtype)
    return weights.to(result.dtype)


class SampleCalls(nn.Module):
    """Several samples at once; what they return is returned beside the loss, as ``call0_0``, ``call0_1``, ..."""

    def __init__(self, samples: list[DatabaseSample]) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.ones((), dtype=torch.float64))
        for i, sample in enumerate(samples):
            self.add_module(f"call{i}", SampleCall(sample))
        self.count = len(samples)

    def one(self, i: int) -> SampleCall:
        found = getattr(self, f"call{i}")
        assert isinstance(found, SampleCall)
        return found

    def inputs(self) -> dict[str, Tensor]:
        """The inputs of forward; the first says that there is no batch."""
        tensors = {"start_at": torch.ones(1, dtype=torch.float64)}
        for i in range(self.count):
            tensors |= {f"call{i}_x{place}": tensor for place, tensor in self.one(i).given.items()}
        return tensors

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        total = inputs["start_at"].sum() * self.start
        returned = {}
        for i in range(self.count):
            call = self.one(i)
            for j, result in enumerate(call({place: inputs[f"call{i}_x{place}"] for place in call.given})):
                returned[f"call{i}_{j}"] = result
                weights = getattr(call, f"weights{j}")
                if weights is not None:
                    total = total + _real((result * weights).sum())
        return {"loss": total, **returned}


def _real(tensor: Tensor) -> Tensor:
    return torch.real(tensor).double() if tensor.is_complex() else tensor.double()
