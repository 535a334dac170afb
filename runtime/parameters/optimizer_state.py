"""The state of a stock optimizer over a `Parallel`'s parameters, whole and under the model's own names, and back.

    {"state": {name: {"exp_avg": whole tensor, "step": ...}}, "param_groups": [{"lr": ..., "params": [names]}]}

What an optimizer keeps for each element of a parameter has the shape of this rank's part, and is put together as the
parameter is; anything else is the same on all ranks. So a run can go on from it on another grid, or without one: names
in place of numbers, it is what `torch.optim.Optimizer.state_dict` gives for the sequential model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autopar.errors import CheckpointError, refusal
from autopar.ir.layout import Layouts, Shard
from autopar.runtime.grid.grid import Axis
from autopar.runtime.parameters.shards import gather_whole, take_part
from autopar.runtime.program.plan_reader import TensorSpec

Owners = Mapping[Tensor, tuple[TensorSpec, Layouts]]  # of every parameter, what it is and how it lies


def full(optimizer: torch.optim.Optimizer, owners: Owners, axes: Sequence[Axis]) -> dict[str, Any]:
    """The whole state. Collective: the ranks have called the same optimizer alike. Raises CheckpointError."""
    _check(optimizer, owners)
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        | {"params": [owners[parameter][0].name for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    state = {}
    for parameter in _parameters(optimizer):
        if parameter in optimizer.state:
            item, layouts = owners[parameter]
            state[item.name] = {
                key: gather_whole(value, item.shape, layouts, axes) if _elementwise(value, parameter) else _own(value)
                for key, value in optimizer.state[parameter].items()
            }
    return {"state": state, "param_groups": groups}


def load(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], owners: Owners, axes: Sequence[Axis]) -> None:
    """Take this rank's parts of a whole state. Raises CheckpointError where it is not of this optimizer's parameters."""
    _check(optimizer, owners)
    for group, saved_group in zip(optimizer.param_groups, _groups(optimizer, saved, owners), strict=True):
        group.update((key, value) for key, value in saved_group.items() if key != "params")
    for parameter in _parameters(optimizer):
        item, layouts = owners[parameter]
        if item.name in saved["state"]:
            optimizer.state[parameter] = {
                key: take_part(value, layouts, axes).to(parameter.dtype)
                if isinstance(value, Tensor) and value.dim() and tuple(value.shape) == item.shape
                else _own(value)
                for key, value in saved["state"][item.name].items()
            }


def _groups(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], owners: Owners) -> list[Mapping[str, Any]]:
    mine = [[owners[parameter][0].name for parameter in group["params"]] for group in optimizer.param_groups]
    theirs = [list(group["params"]) for group in saved["param_groups"]]
    if mine != theirs:
        problem = (
            f"groups of {[len(names) for names in theirs]} parameters for groups of {[len(names) for names in mine]}"
        )
        rule = "an optimizer's state is loaded into one with the same parameters, in the same groups and order"
        differ = sorted({name for names in mine for name in names} ^ {name for names in theirs for name in names})
        raise CheckpointError(refusal("state of the optimizer", problem, rule, differ[:10]))
    return list(saved["param_groups"])


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _own(value: object) -> object:
    """The value, not shared with whom it came from: optimizers count steps in place."""
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _elementwise(value: object, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape == parameter.shape


def _check(optimizer: torch.optim.Optimizer, owners: Owners) -> None:
    """Refuse foreign parameters, and state that is neither a number nor of the shape of a parameter that is cut."""
    foreign = [f"a tensor of shape {tuple(tensor.shape)}" for tensor in _parameters(optimizer) if tensor not in owners]
    if foreign:
        rule = "the optimizer was made over parallel.parameters()"
        raise CheckpointError(refusal("state of the optimizer", "it has parameters of another model", rule, foreign))
    factored = [
        f"{key} of {owners[parameter][0].name} has shape {tuple(value.shape)}"
        for parameter in _parameters(optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor) and value.dim() and not _elementwise(value, parameter)
        if any(isinstance(layout, Shard) for layout in owners[parameter][1])
    ]
    if factored:
        rule = "what is kept for a parameter that is cut has a number for each of its elements"
        raise CheckpointError(refusal("state of the optimizer", "it cannot be put together", rule, factored))
