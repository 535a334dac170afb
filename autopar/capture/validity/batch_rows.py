"""The batch among a model's inputs, and the same inputs with other numbers of rows.

The batch is dim 0 of the first input that has dims, and of every other input whose dim 0 is as long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autopar.capture.exporting.fake_module import Examples


def rows_of(examples: Examples) -> int:
    """How many rows the batch has; 0 where no input has any, 1 where it may as well be no batch."""
    return next((value.shape[0] for value in values(examples) if isinstance(value, Tensor) and value.dim()), 0)


def batched(examples: Examples, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the inputs, which are called so, that have rows."""
    return tuple(name for name, value in zip(names, values(examples), strict=True) if _has(value, rows_of(examples)))


@dataclass(frozen=True, slots=True)
class ExampleInputs:
    """The inputs that a model was captured on, what they are called, and the casts that autocast made then."""

    examples: Examples
    names: tuple[str, ...]
    cast: torch.dtype | None
    training: tuple[bool, ...]  # of every module

    def with_rows(self, inputs: Collection[str], rows: int) -> Examples:
        """The same with so many rows in these inputs; there are enough by repeating them."""
        grown = [
            torch.cat([value] * -(-rows // len(value)))[:rows]
            if name in inputs and isinstance(value, Tensor)
            else value
            for name, value in zip(self.names, values(self.examples), strict=True)
        ]
        return dict(zip(self.names, grown, strict=True)) if isinstance(self.examples, Mapping) else tuple(grown)

    @contextlib.contextmanager
    def as_then(self, model: object) -> Iterator[None]:
        """Forward is called as it was; a live model is in the modes that it was in."""
        parts = list(model.modules()) if isinstance(model, nn.Module) else []
        now = [part.training for part in parts]
        try:
            for part, training in zip(parts, self.training, strict=False):
                part.training = training
            with torch.enable_grad(), torch.autocast("cpu", dtype=self.cast, enabled=self.cast is not None):
                yield
        finally:
            for part, training in zip(parts, now, strict=True):
                part.training = training


def examples_as_given(examples: Examples, names: tuple[str, ...], module: nn.Module) -> ExampleInputs:
    """These inputs, the casts that autocast makes now, and the modes of the module's parts."""
    casts = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    return ExampleInputs(examples, names, casts, tuple(part.training for part in module.modules()))


def values(examples: Examples) -> tuple[object, ...]:
    """The inputs, in the order in which they are given."""
    return tuple(examples.values() if isinstance(examples, Mapping) else examples)


def _has(value: object, rows: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == rows
