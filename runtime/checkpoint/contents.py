"""What a rank writes of a model and an optimizer: each element of a tensor once over all ranks, and what goes into the index.

Of ranks that hold the same part one writes it: tensors are dealt to them in turn, so that all of them write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autopar.errors import CheckpointError, refusal
from autopar.ir.layout import Layouts, Shard
from autopar.runtime.checkpoint.index import MODEL, OPTIMIZER
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters.holders import Holders
from autopar.runtime.parameters.moving.contents import elementwise
from autopar.runtime.parameters.shards import Runs, rows
from autopar.runtime.program.plan_reader import TensorSpec, dtype_name, dtype_of

_SPECIAL = {"tuple", "tensor", "items", "counter"}
"""The keys by which `encoded` says what JSON has not."""


@dataclass(frozen=True, slots=True)
class HeldState:
    """The parts of a model that this rank holds: `layouts` of all tensors in the model's order, `tensors` by name."""

    grid: Grid
    layouts: Mapping[TensorSpec, Layouts]
    tensors: Mapping[str, Tensor]
    holders: Holders

    @property
    def owners(self) -> dict[Tensor, str]:
        """The names of what is held here."""
        return {self.tensors[item.name]: item.name for item in self.layouts if item.name in self.tensors}


@dataclass(frozen=True, slots=True)
class WrittenPart:
    """A part that this rank writes: its tensor, and what the index says of the whole."""

    key: str
    tensor: Tensor
    shape: tuple[int, ...]
    aliases: tuple[str, ...]
    rows: tuple[Runs, ...]


def parts(held: HeldState, optimizer: torch.optim.Optimizer | None) -> Iterator[WrittenPart]:
    """Everything that this rank writes; parts without elements are not written."""
    for number, (item, layouts) in enumerate(held.layouts.items()):
        tensor = held.tensors.get(item.name)
        if tensor is None or not held.holders.speaks(item.name) or not _deals(number, layouts, held.grid):
            continue
        if item.shape and not tensor.numel():
            continue
        own = rows(item.shape, layouts, held.grid.axes)
        yield WrittenPart(f"{MODEL}/{item.name}", tensor, item.shape, item.aliases, own)
        for field, value in ({} if optimizer is None else optimizer.state.get(tensor, {})).items():
            if elementwise(value, tensor):
                yield WrittenPart(f"{OPTIMIZER}/{item.name}/{field}", value, item.shape, (), own)


def scalars(held: HeldState, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """What the optimizer keeps for a parameter as a whole, of those that have elements here. Raises CheckpointError."""
    found: dict[str, dict[str, Any]] = {}
    problems = []
    for tensor, name in held.owners.items():
        state = optimizer.state.get(tensor, {})
        if not state or not tensor.numel() or not held.holders.speaks(name):
            continue
        found[name] = {}
        for field, value in state.items():
            if elementwise(value, tensor):
                continue
            try:
                found[name][field] = encoded(value)
            except TypeError as error:
                problems.append(f"{field} of {name}: {error}")
    _refuse(problems)
    return found


def groups(held: HeldState, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The optimizer's groups, with the names of the parameters that are held here. Raises CheckpointError."""
    owners, found = held.owners, []
    problems = []
    for number, group in enumerate(optimizer.param_groups):
        said: dict[str, Any] = {}
        for key, value in group.items():
            if key == "params":
                foreign = [one for one in value if one not in owners and one.numel()]
                problems += [
                    f"group {number} has a tensor of shape {tuple(one.shape)} of another model" for one in foreign
                ]
                said[key] = [owners[one] for one in value if one in owners]
                continue
            try:
                said[key] = encoded(value)
            except TypeError as error:
                problems.append(f"{key} of group {number}: {error}")
        found.append(said)
    _refuse(problems)
    return found


def encoded(value: object) -> Any:  # noqa: ANN401 (plain JSON)
    """A setting or a state as plain JSON, from which `decoded` makes the same again. Raises TypeError for what cannot be.

    JSON has lists and texts as keys only: schedules have tuples, and counters by number of a step.

    >>> encoded((0.9, 0.999)), encoded(torch.tensor(3.0)), encoded({30: 1})
    ({'tuple': [0.9, 0.999]}, {'tensor': 3.0, 'dtype': 'float32'}, {'items': [[30, 1]]})
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor) and not value.dim():
        return {"tensor": value.item(), "dtype": dtype_name(value.dtype)}
    if isinstance(value, tuple):
        return {"tuple": [encoded(one) for one in value]}
    if isinstance(value, list):
        return [encoded(one) for one in value]
    if isinstance(value, dict):
        if type(value) is dict and all(isinstance(key, str) and key not in _SPECIAL for key in value):
            return {key: encoded(one) for key, one in value.items()}
        kind = "counter" if isinstance(value, Counter) else "items"
        return {kind: [[encoded(key), encoded(one)] for key, one in value.items()]}
    what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise TypeError(what)


def decoded(value: Any) -> Any:  # noqa: ANN401 (plain JSON)
    """The inverse of `encoded`."""
    if isinstance(value, list):
        return [decoded(one) for one in value]
    if isinstance(value, dict):
        if "tuple" in value:
            return tuple(decoded(one) for one in value["tuple"])
        if "tensor" in value:
            return torch.tensor(value["tensor"], dtype=dtype_of(value["dtype"]))
        if special := _SPECIAL & value.keys():
            items = {decoded(key): decoded(one) for key, one in value[special.pop()]}
            return Counter(items) if "counter" in value else items
        return {key: decoded(one) for key, one in value.items()}
    return value


def _deals(number: int, layouts: Layouts, grid: Grid) -> bool:
    """Whether this rank is the one of those with the same part that writes the tensor of this number."""
    copies = [axis for axis, layout in zip(grid.axes, layouts, strict=True) if not isinstance(layout, Shard)]
    for axis in copies if grid.queue is None else [*copies, grid.queue]:
        number, turn = divmod(number, axis.size)
        if axis.index != turn:
            return False
    return True


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        rule = "an optimizer over parallel.parameters() keeps numbers, texts, and tensors of one number or of a parameter's shape"
        raise CheckpointError(refusal("state of the optimizer", "it cannot be saved", rule, problems))
