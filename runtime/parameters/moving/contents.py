"""What moves with a tensor: its gradient, and what optimizers keep for each of its elements; and that all ranks have the same.

A rank whose part was empty may lack a gradient, which torch finds none of where there are no rows, and the state that comes with
it. Where a rank has one, the others get zeros, and what is kept for the tensor as a whole, as AdamW's count of steps, comes from a
rank that had rows: in the sequential model there is one tensor, which has all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autopar.errors import ConfigError, refusal
from autopar.ir.layout import Layouts
from autopar.runtime.parameters.moving.legal_cuts import Cuts
from autopar.runtime.parameters.moving.owners import Repartition
from autopar.runtime.program.plan_reader import TensorSpec, dtype_name, dtype_of
from autopar.runtime.transport.base import Comm

Held = tuple[TensorSpec, Layouts, Tensor]
Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None
_Told = tuple[bool, bool, list[dict[str, Any]]]  # whether it has elements, a gradient; the state, by optimizer and key


@dataclass(frozen=True, slots=True)
class HeldPart:
    """A tensor that has a number for every element of a part: how to reach it, and to put another one in its place.

    Nothing here holds the tensor, so that it goes when another takes its place.
    """

    dtype: torch.dtype
    read: Callable[[], Tensor]
    store: Callable[[Tensor], None]


def every(optimizers: Optimizers) -> tuple[torch.optim.Optimizer, ...]:
    """The optimizers one by one."""
    if optimizers is None:
        return ()
    return (optimizers,) if isinstance(optimizers, torch.optim.Optimizer) else tuple(optimizers)


def held_parts(tensor: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[HeldPart]:
    """A parameter or buffer, its gradient, and what is kept for each of its elements, in this order."""
    gradient = [] if tensor.grad is None else [tensor.grad]
    yield HeldPart(tensor.dtype, tensor.detach, partial(_replace, tensor))
    if gradient:
        yield HeldPart(
            gradient[0].dtype, partial(gradient.__getitem__, 0), partial(_replace_gradient, tensor, gradient)
        )
    for optimizer in optimizers:
        state = optimizer.state.get(tensor, {})
        for key, value in state.items():
            if elementwise(value, tensor):
                yield HeldPart(value.dtype, partial(state.__getitem__, key), partial(state.__setitem__, key))


def bytes_per_element(tensor: Tensor, optimizers: Optimizers) -> int:
    """Of a parameter or buffer with its gradient and state."""
    return sum(part.dtype.itemsize for part in held_parts(tensor, every(optimizers)))


def elementwise(value: object, tensor: Tensor) -> bool:
    """Whether it has a number for each element of a tensor."""
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape == tensor.shape


def complete(
    group: Comm,
    cuts: Mapping[str, Cuts],
    held: Sequence[tuple[Held, Repartition]],
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """Give every rank of the group the gradients and the state that any rank has for a tensor. Collective.

    Raises ConfigError where the ranks do not move alike, to the same cuts with the same optimizers, or state cannot be cut.
    """
    mine = [[str(dict(sorted(cuts.items()))), len(optimizers)], *(_tell(one[2], optimizers) for one, _ in held)]
    every_told: Sequence[Any] = group.gather_objects(mine)
    _check_alike([told[0] for told in every_told])
    _check_state([one for one, _ in held], optimizers)
    offenders: list[str] = []
    for number, ((item, _, tensor), repartition) in enumerate(held, 1):
        said = [told[number] for told in every_told]
        if tensor.grad is None and any(has for _, has, _ in said):
            tensor.grad = torch.zeros_like(tensor)
        peers = [said[rank] for rank in repartition.peers[group.rank]]
        for i, optimizer in enumerate(optimizers):
            offenders += [f"{key} of {item.name}" for key in _differing(states[i] for rows, _, states in peers if rows)]
            _adopt(optimizer, tensor, [states[i] for _, _, states in _best_first(peers, said)])
    if offenders:
        rule = "ranks that hold rows of one tensor keep the same numbers for it, as the sequential model does"
        raise ConfigError(refusal("moving boundaries", "the optimizer's state differs", rule, offenders[:10]))


def _check_alike(told: Sequence[tuple[str, int]]) -> None:
    """Raise ConfigError where ranks were called with different cuts, or different numbers of optimizers."""
    if len({tuple(one) for one in told}) > 1:
        lines = [f"rank {rank}: {cuts}, {count} optimizers" for rank, (cuts, count) in enumerate(told)]
        rule = "all ranks move to the same cuts, with the same optimizers"
        raise ConfigError(refusal("moving boundaries", "the ranks do not move alike", rule, lines[:10]))


def _check_state(held: Sequence[Held], optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Raise ConfigError, with all offenders, where optimizers keep for a tensor what cannot be cut as the tensor is."""
    offenders = [
        f"{type(optimizer).__name__} keeps {key} for {item.name}, {_said(value)}"
        for item, _, tensor in held
        for optimizer in optimizers
        for key, value in optimizer.state.get(tensor, {}).items()
        if not elementwise(value, tensor) and value is not None and _told(value) is None
    ]
    if offenders:
        rule = "what is kept for a parameter is one number, or a number for each of its elements"
        fix = "take an optimizer whose state can be cut, as SGD, Adam and AdamW are, or keep the boundaries where they are"
        raise ConfigError(refusal("moving boundaries", "the optimizer's state cannot move", rule, offenders[:10], fix))


def _best_first(peers: Sequence[_Told], others: Sequence[_Told]) -> list[_Told]:
    """Peers that had rows come first, then peers, then other ranks of the group."""
    return [*(told for told in peers if told[0]), *peers, *others]


def _differing(states: Iterator[Mapping[str, Any]]) -> list[str]:
    """The keys of numbers that are not the same in all states that have them."""
    known: dict[str, object] = {}
    return [
        key
        for state in states
        for key, (kind, value) in state.items()
        if kind == "value" and known.setdefault(key, value) != value
    ]


def _adopt(optimizer: torch.optim.Optimizer, tensor: Tensor, states: Sequence[Mapping[str, Any]]) -> None:
    """Put what is missing for a tensor into an optimizer's state: the first that is said of each key, and zeros for elements.

    Numbers of a rank without rows are replaced.
    """
    own = optimizer.state.get(tensor, {})
    for key, (kind, value) in {key: said for state in reversed(states) for key, said in state.items()}.items():
        if key in own and (kind == "elements" or tensor.numel()):
            continue
        if kind == "elements":
            made: object = torch.zeros_like(tensor, dtype=dtype_of(value))
        else:
            made = torch.tensor(value[0], dtype=dtype_of(value[1])) if isinstance(value, list) else value
        if isinstance(made, Tensor) and isinstance(own.get(key), Tensor):
            made = made.to(own[key].device)
        optimizer.state[tensor][key] = made


def _tell(tensor: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> _Told:
    states = [
        {
            key: ["elements", dtype_name(value.dtype)] if elementwise(value, tensor) else ["value", _told(value)]
            for key, value in optimizer.state.get(tensor, {}).items()
        }
        for optimizer in optimizers
    ]
    return tensor.numel() > 0, tensor.grad is not None, states


def _told(value: object) -> object:
    """A number that is kept for a tensor as a whole, as JSON; None where it is no such thing."""
    if isinstance(value, Tensor):
        return [value.item(), dtype_name(value.dtype)] if value.dim() == 0 and not value.is_complex() else None
    return value if isinstance(value, bool | int | float | str) else None


def _said(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _replace(tensor: Tensor, part: Tensor) -> None:
    """Another part in the place of this one, without a gradient.

    A graph that is still alive keeps the node that accumulates this gradient, which keeps the old shape. A new one is made when the
    dtype changes, but not when the shape does: hence by way of another dtype.
    """
    tensor.grad = None
    tensor.data = torch.empty(0, dtype=torch.float16 if part.dtype != torch.float16 else torch.float32)
    tensor.data = part


def _replace_gradient(tensor: Tensor, gradient: list[Tensor], part: Tensor) -> None:
    """Another gradient, once the parameter has its new shape; the old one was kept in the list."""
    gradient.clear()
    tensor.grad = part
