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
from autopar.runtime.parameters.holders import Holders
from autopar.runtime.parameters.moving.contents import elementwise
from autopar.runtime.parameters.shards import gather_whole, take_part
from autopar.runtime.program.plan_reader import TensorSpec, dtype_name, dtype_of

Owners = Mapping[Tensor, tuple[TensorSpec, Layouts]]  # of every parameter, what it is and how it lies


def full(
    optimizer: torch.optim.Optimizer, owners: Owners, axes: Sequence[Axis], holders: Holders, names: Sequence[str]
) -> dict[str, Any]:
    """The whole state. Collective: the ranks have called the same optimizer alike. Raises CheckpointError.

    `names` are those of all tensors, in the order of the model.
    """
    _check(optimizer, owners)
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        | {"params": [owners[parameter][0].name for parameter in _held(group, owners)]}
        for group in optimizer.param_groups
    ]
    state = {}
    for parameter in _parameters(optimizer, owners):
        if parameter in optimizer.state:
            item, layouts = owners[parameter]
            state[item.name] = {
                key: gather_whole(value, item.shape, layouts, axes) if elementwise(value, parameter) else _own(value)
                for key, value in optimizer.state[parameter].items()
            }
    if holders.place is None:
        return {"state": state, "param_groups": groups}
    held: list[Any] = holders.place.comm.gather_objects([group["params"] for group in groups])
    return {"state": _united(state, holders, names), "param_groups": united_groups(groups, held, names, "position")}


def _united(state: Mapping[str, Any], holders: Holders, names: Sequence[str]) -> dict[str, Any]:
    """The states of the parameters of all positions, by name."""
    assert holders.place is not None
    mine = {name: {key: _kind(value) for key, value in kept.items()} for name, kept in state.items()}
    every: list[Any] = holders.place.comm.gather_objects(mine)
    unknown = [
        f"{key} of {name}: {what}"
        for said in every
        for name, kept in said.items()
        for key, (kind, what) in kept.items()
        if kind == "other"
    ]
    if unknown:
        rule = "what is kept for a parameter is a tensor, a number or a text, which the ranks of other positions can be told"
        raise CheckpointError(refusal("state of the optimizer", "it cannot be put together", rule, unknown))
    united: dict[str, Any] = {}
    for name in names:
        kinds = every[holders.of(name)[0]].get(name)
        if kinds is None:
            continue
        own = state.get(name, {})
        united[name] = {
            key: holders.shown(name, own.get(key), what[0], dtype_of(what[1])) if kind == "tensor" else what
            for key, (kind, what) in kinds.items()
        }
    return united


def _kind(value: object) -> list[object]:
    """What the other positions are told of a value."""
    if isinstance(value, Tensor):
        return ["tensor", [list(value.shape), dtype_name(value.dtype)]]
    if value is None or isinstance(value, bool | int | float | str):
        return ["value", value]
    return ["other", type(value).__name__]


def united_groups(
    groups: Sequence[Mapping[str, Any]], every: Sequence[Sequence[Sequence[str]]], names: Sequence[str], place: str
) -> list[dict[str, Any]]:
    """These groups with the parameters that every place, a rank or a position, has in them, in the order of the model's `names`.

    Raises CheckpointError where some have other groups.
    """
    if len({len(theirs) for theirs in every}) > 1:
        lines = [f"{place} {number}: {len(theirs)} groups" for number, theirs in enumerate(every)]
        rule = f"optimizers have the same groups on all {place}s, each with the parameters that are there"
        raise CheckpointError(refusal("state of the optimizer", "it cannot be put together", rule, lines))
    held = [{name for theirs in every for name in theirs[i]} for i in range(len(groups))]
    return [{**group, "params": [n for n in names if n in held[i]]} for i, group in enumerate(groups)]


def load(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], owners: Owners, axes: Sequence[Axis], holders: Holders
) -> None:
    """Take this rank's parts of a whole state. Raises CheckpointError where it is not of this optimizer's parameters."""
    _check(optimizer, owners)
    for group, saved_group in zip(optimizer.param_groups, _groups(optimizer, saved, owners, holders), strict=True):
        group.update((key, value) for key, value in saved_group.items() if key != "params")
    for parameter in _parameters(optimizer, owners):
        item, layouts = owners[parameter]
        if item.name in saved["state"]:
            optimizer.state[parameter] = {
                key: take_part(value, layouts, axes).to(parameter.dtype)
                if isinstance(value, Tensor) and value.dim() and tuple(value.shape) == item.shape
                else _own(value)
                for key, value in saved["state"][item.name].items()
            }


def _groups(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], owners: Owners, holders: Holders
) -> list[Mapping[str, Any]]:
    mine = [[owners[parameter][0].name for parameter in _held(group, owners)] for group in optimizer.param_groups]
    theirs = [list(filter(holders.here, group["params"])) for group in saved["param_groups"]]
    if mine != theirs:
        problem = (
            f"groups of {[len(names) for names in theirs]} parameters for groups of {[len(names) for names in mine]}"
        )
        rule = "an optimizer's state is loaded into one with the same parameters, in the same groups and order"
        differ = sorted({name for names in mine for name in names} ^ {name for names in theirs for name in names})
        raise CheckpointError(refusal("state of the optimizer", problem, rule, differ[:10]))
    return list(saved["param_groups"])


def _parameters(optimizer: torch.optim.Optimizer, owners: Owners) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in _held(group, owners)]


def _held(group: Mapping[str, Any], owners: Owners) -> list[Tensor]:
    """The parameters of a group, but for the one without elements that stands for none."""
    return [parameter for parameter in group["params"] if parameter in owners or parameter.numel()]


def _own(value: object) -> object:
    """The value, not shared with whom it came from: optimizers count steps in place."""
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _check(optimizer: torch.optim.Optimizer, owners: Owners) -> None:
    """Refuse foreign parameters, and state that is neither a number nor of the shape of a parameter that is cut."""
    foreign = [
        f"a tensor of shape {tuple(tensor.shape)}" for tensor in _parameters(optimizer, owners) if tensor not in owners
    ]
    if foreign:
        rule = "the optimizer was made over parallel.parameters()"
        raise CheckpointError(refusal("state of the optimizer", "it has parameters of another model", rule, foreign))
    factored = [
        f"{key} of {owners[parameter][0].name} has shape {tuple(value.shape)}"
        for parameter in _parameters(optimizer, owners)
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor) and value.dim() and not elementwise(value, parameter)
        if any(isinstance(layout, Shard) for layout in owners[parameter][1])
    ]
    if factored:
        rule = "what is kept for a parameter that is cut has a number for each of its elements"
        raise CheckpointError(refusal("state of the optimizer", "it cannot be put together", rule, factored))
