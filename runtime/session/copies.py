"""Copies of a model on a grid: what `copy.deepcopy` makes, and why a pickle is refused.

A copy has this rank's values as its own, on the same grid, by the same programs. So `torch.optim.swa_utils.AveragedModel` works.
While there are copies, boundaries stay: they belong to the grid, and a move would leave the others' parts behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autopar.errors import CheckpointError, ConfigError, refusal
from autopar.ir.layout import Layouts
from autopar.runtime.grid.grid import Axis
from autopar.runtime.parameters.sources import Source
from autopar.runtime.program.plan_reader import TensorSpec


@dataclass(frozen=True, slots=True)
class CopiedPart:
    """A tensor of which every rank has its part already; `tensor` is None where another position holds it."""

    tensor: Tensor | None
    shape: tuple[int, ...]

    def reaching(self, place: Axis, axes: Sequence[Axis], positions: Sequence[int]) -> CopiedPart:
        """Itself: who needs it has it."""
        del place, axes, positions
        return self

    def part(self, layouts: Layouts, axes: Sequence[Axis]) -> Tensor:
        """This rank's part, in memory of its own."""
        del layouts, axes
        assert self.tensor is not None
        return self.tensor.detach().clone()


def parts(layouts: Mapping[TensorSpec, Layouts], tensors: Mapping[str, Tensor]) -> Source:
    """What a rank holds, as the source of a copy."""
    return [(item.name, CopiedPart(tensors.get(item.name), item.shape)) for item in layouts]


def like(copy: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> None:
    """Give a copy's tensors the device, dtype and `requires_grad` of the original's, which may have been changed since."""
    for name, tensor in original.items():
        copy[name].data = tensor.detach().clone(memory_format=torch.preserve_format)
        copy[name].requires_grad_(tensor.requires_grad)


def objections(models: int) -> list[str]:
    """What speaks against moving boundaries on which so many models lie."""
    return [f"{models} copies of the model lie on them"] if models > 1 else []


def check_alone(models: int) -> None:
    """Raise ConfigError where boundaries are to be moved on which so many models lie."""
    if lines := objections(models):
        rule = "boundaries belong to the grid, and a move takes the parts of one model with it"
        fix = "delete copies and averages of the model before, or train with balance='off'"
        raise ConfigError(refusal("moving boundaries", "not now", rule, lines, fix))


def refused() -> CheckpointError:
    """Why a model on a grid is not pickled."""
    rule = "a pickle would hold this rank's part, with communicators that no other process has"
    fix = (
        "torch.save(parallel.full_state_dict()) for the whole, parallel.state_dict() for this rank's part; "
        "copy.deepcopy(parallel) for a copy on this grid; autopar.load(folder).parallel() to begin again"
    )
    return CheckpointError(refusal("pickle of a model on a grid", "it cannot be pickled", rule, fix=fix))
