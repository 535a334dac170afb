"""A model that its library can run, with a loss as its result: what every source of families gives."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[Tensor, ...] | dict[str, Tensor]
ROWS = 4


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that its library can run: a function that makes it, and inputs of `ROWS` rows, or of one. It returns its loss."""

    make: Callable[[], nn.Module]
    inputs: Inputs


class TowardsPattern(nn.Module):
    """A net whose every floating-point result is drawn towards numbers that are exact in all types, by mean squares."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        """The sum of the mean squares."""
        terms = [
            (result - (torch.arange(result.shape[-1], device=result.device) % 5 - 2).to(result.dtype)).square().mean()
            for result in tensors_of(self.net(*inputs))
            if result.is_floating_point()
        ]
        return torch.stack(terms).sum()


class OwnLoss(nn.Module):
    """A model of transformers that computes its loss from labels; further outputs are not looked at."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, **inputs: Tensor) -> Tensor:
        """The loss."""
        loss: Tensor = self.net(**inputs).loss
        return loss


def tensors_of(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for item in output.values():
            yield from tensors_of(item)
    elif isinstance(output, list | tuple):
        for item in output:
            yield from tensors_of(item)


def without_dropout(net: nn.Module) -> nn.Module:
    """The net in training mode, with every probability of dropping something at zero."""
    for module in net.modules():
        for name in ("p", "drop_prob", "drop_rate", "dropout", "layerdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return net.train()


def first_that_runs(trials: Iterator[tuple[Callable[[], nn.Module], Inputs]]) -> Subject:
    """The first trial whose step the library itself can run, forward and backward. Raises what the last one raised."""
    last: Exception = ValueError("there is nothing to try")
    while True:
        try:
            make, inputs = next(trials)
            if _size(make) > MOST_PARAMETERS:
                raise ValueError(f"more than {MOST_PARAMETERS / 1e6:.0f}M parameters")
            net = make()
            loss = net(**inputs) if isinstance(inputs, dict) else net(*inputs)
            loss.backward()
            if not torch.isfinite(loss):
                raise ValueError(f"the loss is {loss.item()}")
            return Subject(make, inputs)
        except StopIteration:
            raise last from None
        except Exception as error:  # a library may raise anything at sizes that its model does not take
            last = error


MOST_PARAMETERS = 80e6


def _size(make: Callable[[], nn.Module]) -> int:
    """How many parameters a model has, found without memory for them; 0 for one that cannot be made so."""
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in make().parameters())
    except Exception:  # a library may look at numbers
        return 0


def torchvision_models() -> Any:  # noqa: ANN401 (a module)
    """torchvision's models; beside a torch for which its kernels are not built, without what describes these to torch."""
    described = "torchvision._meta_registrations"
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules[described] = types.ModuleType(described)
        import torchvision
    return torchvision.models
