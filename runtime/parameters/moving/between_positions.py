"""Tensors of a model that go from position to position between two steps, with gradients and what optimizers keep for them.

What goes is told first, in plain JSON, so that whatever cannot go is refused before anything has gone. Then it is sent as bytes,
from the first of the positions that have it to each that is to have it, between the ranks of one place on the space axes, whose
parts have the same shape. Messages are of bounded size, so that neither side holds a second copy of what goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autopar.errors import ConfigError, refusal
from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.grid.grid import Grid
from autopar.runtime.grid.memory_format import TURNED, in_memory, order
from autopar.runtime.parameters.gradient_buckets import GradientSums
from autopar.runtime.parameters.holders import Holders
from autopar.runtime.program.plan_reader import dtype_name, dtype_of
from autopar.runtime.transport.base import Comm

_MESSAGE = 16 << 20  # bytes
_VALUE, _GRADIENT = "value", "gradient"


@dataclass(frozen=True, slots=True)
class Parcel:
    """A parameter or buffer with all that goes with it: tensors by what they are, and numbers that optimizers keep.

    `groups` are those of each optimizer which have it, None where none does; `numbers` are by optimizer and key.
    """

    tensors: dict[str, Tensor]
    parameter: bool
    trained: bool
    groups: list[int | None]
    numbers: list[dict[str, object]]

    def told(self) -> list[object]:
        """All but the elements, as plain JSON."""
        rows = [
            [key, list(one.shape), dtype_name(one.dtype), one.device.type, order(one) is torch.channels_last]
            for key, one in self.tensors.items()
        ]
        return [rows, self.parameter, self.trained, self.groups, self.numbers]

    @staticmethod
    def empty(told: Any) -> Parcel:  # noqa: ANN401 (what `told` gave)
        """One with room for the elements."""
        rows, parameter, trained, groups, numbers = told
        tensors = {
            key: torch.empty(
                shape, dtype=dtype_of(dtype), device=device,
                memory_format=torch.channels_last if last else torch.contiguous_format,
            )
            for key, shape, dtype, device, last in rows
        }  # fmt: skip
        return Parcel(tensors, parameter, trained, groups, numbers)

    def opened(self, optimizers: Sequence[torch.optim.Optimizer]) -> Tensor:
        """The parameter or buffer; what the optimizers keep for it is there."""
        value = self.tensors[_VALUE]
        if not self.parameter:
            return value
        parameter = nn.Parameter(value, requires_grad=self.trained)
        parameter.grad = self.tensors.get(_GRADIENT)
        for i, (optimizer, group, numbers) in enumerate(zip(optimizers, self.groups, self.numbers, strict=True)):
            kept = {key: one for key, one in self.tensors.items() if key.startswith(_state(i))}
            state = {key.removeprefix(_state(i)): one for key, one in kept.items()} | numbers
            if group is not None:
                optimizer.param_groups[group]["params"].append(parameter)
            if state:
                optimizer.state[parameter] = state
        return parameter


@dataclass(frozen=True, slots=True)
class Passage:
    """The way of one tensor, by its name: from a position that has it to those that are to have it."""

    name: str
    source: int
    targets: tuple[int, ...]


def passages(names: Sequence[str], before: Holders, after: Holders) -> list[Passage]:
    """The ways of all tensors that are to be where they are not, in the order of the model."""
    ways = []
    for name in names:
        if targets := tuple(sorted({*after.of(name)} - {*before.of(name)})):
            ways.append(Passage(name, before.of(name)[0], targets))
    return ways


def move_tensors(
    grid: Grid,
    names: Sequence[str],
    tensors: Mapping[str, Tensor],
    before: Holders,
    after: Holders,
    optimizers: Sequence[torch.optim.Optimizer],
) -> dict[str, Tensor]:
    """What this position holds afterwards, by name in the order of the model; `tensors` is what it holds before. Collective.

    The optimizers' groups hold the parameters that are here then, each group in the order of the model. Raises ConfigError, before
    anything has moved, for what cannot go.
    """
    assert grid.place is not None
    ways, here = passages(names, before, after), grid.place.index
    with together(grid.comm, "moving segments"):
        mine = {way.name: _parcel(way.name, tensors[way.name], optimizers) for way in ways if way.source == here}
    groups = [len(optimizer.param_groups) for optimizer in optimizers]
    every: list[Any] = grid.place.comm.gather_objects([groups, {name: one.told() for name, one in mine.items()}])
    _check_groups([theirs[0] for theirs in every])
    with together(grid.comm, "making room for moved segments"):
        coming = {way.name: Parcel.empty(every[way.source][1][way.name]) for way in ways if here in way.targets}
    sends: dict[int, list[Tensor]] = {}
    receives: dict[int, list[Tensor]] = {}
    for way in ways:
        for target in way.targets if way.source == here else ():
            sends.setdefault(target, []).extend(mine[way.name].tensors.values())
        if way.name in coming:
            receives.setdefault(way.source, []).extend(coming[way.name].tensors.values())
    _exchange(grid.place.comm, sends, receives)
    leaving = {name: one for name, one in tensors.items() if name in names and not after.here(name)}
    _leave(optimizers, leaving)
    made = {name: parcel.opened(optimizers) for name, parcel in coming.items()}
    held = {**{name: one for name, one in tensors.items() if name not in leaving}, **made}
    there = {name: held[name] for name in (*names, *held) if name in held}
    _in_order(optimizers, list(there.values()))
    return there


def _state(number: int) -> str:
    """How tensors that an optimizer keeps are called in a parcel, before its own key."""
    return f"state {number} "


def _parcel(name: str, tensor: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> Parcel:
    """What goes of a tensor that is here. Raises ConfigError for hooks and for what an optimizer keeps in another form."""
    parameter = isinstance(tensor, nn.Parameter)
    parcel = Parcel({_VALUE: _sendable(tensor)}, parameter, tensor.requires_grad, [], [{} for _ in optimizers])
    hooks = [*(tensor._backward_hooks or {}).values(), *(tensor._post_accumulate_grad_hooks or {}).values()]
    faults = []
    if any(not isinstance(getattr(hook, "__self__", None), GradientSums) for hook in hooks):
        faults.append(f"{name} has hooks of yours, which are functions of this process")
    if tensor.grad is not None:
        parcel.tensors[_GRADIENT] = _sendable(tensor.grad)
    for i, optimizer in enumerate(optimizers):
        groups = enumerate(optimizer.param_groups)
        parcel.groups.append(next((j for j, group in groups if any(one is tensor for one in group["params"])), None))
        for key, value in optimizer.state.get(tensor, {}).items():
            if isinstance(value, Tensor):
                parcel.tensors[_state(i) + key] = _sendable(value)
            elif value is None or isinstance(value, bool | int | float | str):
                parcel.numbers[i][key] = value
            else:
                faults.append(f"{key} that {type(optimizer).__name__} keeps for {name} is a {type(value).__name__}")
    if faults:
        rule = "tensors, numbers and texts go to another position with a segment"
        raise ConfigError(refusal("moving segments", f"not with {name}", rule, faults))
    return parcel


def _sendable(tensor: Tensor) -> Tensor:
    """The elements in one piece of memory, in the order of the dims or channels last."""
    return in_memory(tensor.detach(), order(tensor))


def _check_groups(counts: Sequence[list[int]]) -> None:
    """Raise ConfigError, alike on every rank, where the optimizers of the positions have different groups."""
    if any(count != counts[0] for count in counts):
        lines = [
            f"position {position}: {', '.join(f'{groups} groups' for groups in count) or 'no optimizer'}"
            for position, count in enumerate(counts)
        ]
        rule = "optimizers have the same groups on all positions, each with the parameters that are there"
        raise ConfigError(refusal("moving segments", "the optimizers differ", rule, lines))


def _leave(optimizers: Sequence[torch.optim.Optimizer], leaving: Mapping[str, Tensor]) -> None:
    """Let go of parameters that are elsewhere from now on."""
    gone = {id(tensor) for tensor in leaving.values()}
    for tensor in leaving.values():
        tensor.grad = None
    for optimizer in optimizers:
        for tensor in leaving.values():
            optimizer.state.pop(tensor, None)
        for group in optimizer.param_groups:
            group["params"] = [one for one in group["params"] if id(one) not in gone]


def _in_order(optimizers: Sequence[torch.optim.Optimizer], tensors: Sequence[Tensor]) -> None:
    """Put the parameters of every group into the order of the model; those that are not the model's stand behind them."""
    number = {id(tensor): i for i, tensor in enumerate(tensors)}
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["params"] = sorted(group["params"], key=lambda one: number.get(id(one), len(number)))


def _exchange(comm: Comm, sends: Mapping[int, Sequence[Tensor]], receives: Mapping[int, Sequence[Tensor]]) -> None:
    """Send tensors to positions and fill others from positions, in messages of at most `_MESSAGE` bytes each."""
    sizes = [sum(one.nbytes for one in tensors) for tensors in (*sends.values(), *receives.values())]
    for start in range(0, max(sizes, default=0), _MESSAGE):
        gives = {to: _joined(tensors, start) for to, tensors in sends.items() if _left(tensors, start)}
        rooms = {
            source: torch.empty(min(_MESSAGE, left), dtype=torch.uint8)
            for source, tensors in receives.items()
            if (left := _left(tensors, start))
        }
        comm.exchange(gives, rooms)
        for source, room in rooms.items():
            for piece, low, high in _pieces(receives[source], start):
                piece.copy_(room[low:high])


def _left(tensors: Sequence[Tensor], start: int) -> int:
    """The bytes from `start` on."""
    return max(0, sum(one.nbytes for one in tensors) - start)


def _joined(tensors: Sequence[Tensor], start: int) -> Tensor:
    """The bytes of a message."""
    room = torch.empty(min(_MESSAGE, _left(tensors, start)), dtype=torch.uint8)
    for piece, low, high in _pieces(tensors, start):
        room[low:high].copy_(piece)
    return room


def _pieces(tensors: Sequence[Tensor], start: int) -> Iterator[tuple[Tensor, int, int]]:
    """The parts of tensors that lie in the message that begins at byte `start`, as bytes, and where they lie in it."""
    at, stop = 0, start + _MESSAGE
    for tensor in tensors:
        low, high = max(at, start), min(at + tensor.nbytes, stop)
        if low < high:
            flat = (tensor.permute(TURNED) if order(tensor) is torch.channels_last else tensor).view(-1)
            yield flat.view(torch.uint8)[low - at : high - at], low - start, high - start
        at += tensor.nbytes
