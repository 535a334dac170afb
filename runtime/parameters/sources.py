"""Where initial values come from, one whole tensor (or less) at a time.

A source is an iterable of (name, value), where a value is a whole tensor or something that gives a rank its part:

    deferred_init.initial_values(build, seed)    a model function, replayed
    deferred_init.module_values(module)          a live module
    distribute.from_rank0(values, comm)          rank 0's values, of which every rank receives its own part only
    from_file(path)                              a safetensors file, of which each rank reads its own rows only

Where every rank makes the values by itself, `ComparedSource` notes what they were, and compares the ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from autopar.errors import CheckpointError, nearest, refusal
from autopar.ir.layout import Layouts
from autopar.runtime.diagnostics.collective_errors import alike
from autopar.runtime.grid.grid import Axis
from autopar.runtime.parameters.checksum import checksum
from autopar.runtime.parameters.holders import Holders
from autopar.runtime.parameters.precision import precise
from autopar.runtime.parameters.shards import Runs, local_shape, rows, take_part
from autopar.runtime.program.plan_reader import TensorSpec
from autopar.runtime.transport.base import Comm


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a safetensors file; `rows` of it are read on demand."""

    slice: Any  # safetensors' own handle
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Of the file."""
        none: Tensor = self.slice[tuple(slice(0, 0) for _ in self.shape)] if self.shape else self.slice[...]
        return none.dtype

    def reaching(self, place: Axis, axes: Sequence[Axis], positions: Sequence[int]) -> Stored:
        """Itself: every rank reads for itself."""
        del place, axes, positions
        return self

    def part(self, layouts: Layouts, axes: Sequence[Axis]) -> Tensor:
        """This rank's part."""
        runs = rows(self.shape, layouts, axes)
        if not all(runs):
            empty: Tensor = self.slice[tuple(slice(0, 0 if i == 0 else None) for i in range(len(self.shape)))]
            return empty.new_empty(local_shape(self.shape, layouts, axes))
        return self.read(runs)

    def read(self, runs: Sequence[Runs], chosen: tuple[slice, ...] = ()) -> Tensor:
        """These rows of every dim behind the `chosen` ones."""
        dim = len(chosen)
        if dim == len(runs):
            block: Tensor = self.slice[chosen or ...]
            return block
        parts = [self.read(runs, (*chosen, slice(start, stop))) for start, stop in runs[dim]]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


class Parted(Protocol):
    """A tensor that is not here as a whole."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""

    def reaching(self, place: Axis, axes: Sequence[Axis], positions: Sequence[int]) -> Parted:
        """The tensor, known on these positions of a place axis, whose ranks may then take their parts. Collective."""

    def part(self, layouts: Layouts, axes: Sequence[Axis]) -> Tensor:
        """This rank's part."""


class Readable(Parted, Protocol):
    """A tensor in files, of which each rank reads its part."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the files."""


@dataclass(frozen=True, slots=True)
class UnsetTensor:
    """A tensor that has no values yet: whoever uses it loads them before anything reads them."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def reaching(self, place: Axis, axes: Sequence[Axis], positions: Sequence[int]) -> UnsetTensor:
        """Itself."""
        del place, axes, positions
        return self

    def part(self, layouts: Layouts, axes: Sequence[Axis]) -> Tensor:
        """Memory for this rank's part."""
        return torch.empty(local_shape(self.shape, layouts, axes), dtype=self.dtype)


Source = Iterable[tuple[str, Tensor | Parted]]
EVERYBODY = Holders()


class ComparedSource:
    """A source whose whole tensors every rank makes by itself: the same ones, unless `check` says otherwise."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._prints: dict[str, int] = {}

    def __iter__(self) -> Iterator[tuple[str, Tensor | Parted]]:
        for name, value in self._source:
            if isinstance(value, Tensor):
                self._prints[name] = checksum(value)
            yield name, value

    def check(self, comm: Comm) -> None:
        """Raise CheckpointError, on all ranks, where the ranks have made different values. Collective."""
        every = comm.gather_objects(self._prints)
        differ = [name for name in self._prints if len({theirs.get(name) for theirs in every}) > 1]  # type: ignore[attr-defined]
        if differ:
            problem = "they differ from rank to rank"
            rule = "every rank makes, or is given, the same whole values, and keeps its part of them"
            fix = (
                "load the same file on every rank; let a model function draw from torch's generator alone, which is seeded "
                "alike, or give the model itself: rank 0's values are then everybody's"
            )
            raise alike(CheckpointError(refusal("values of the parameters", problem, rule, differ[:10], fix)))


def from_file(path: Path) -> Iterator[tuple[str, Stored]]:
    """The tensors of a safetensors file. Raises CheckpointError where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (the handle is not iterable)
                stored = file.get_slice(name)
                yield name, Stored(stored, tuple(stored.get_shape()))
    except (OSError, SafetensorError) as error:
        rule = "parameters are read from a safetensors file"
        raise CheckpointError(refusal(str(path), f"cannot be read: {error}", rule, fix="save it again")) from error


def load(
    source: Source,
    layout: Mapping[TensorSpec, Layouts],
    axes: Sequence[Axis],
    dtype: torch.dtype | None,
    filters: torch.memory_format = torch.contiguous_format,
    holders: Holders = EVERYBODY,
) -> dict[str, Tensor]:
    """This rank's part of every described tensor; parameters are `nn.Parameter`. `dtype` replaces floating point.

    Parameters of four dims lie in the order `filters`. Tensors that other positions hold only are left out.

    Names that are tied may come under any of their names. Raises CheckpointError with everything that is missing, of
    another shape, or not described at all.
    """
    owner = {name: item for item in layout for name in (item.name, *item.aliases)}
    parts: dict[str, Tensor] = {}
    problems: list[str] = []
    for name, value in source:
        item = owner.get(name)
        if item is None:
            problems.append(f"{name} is not a parameter of the model{nearest(name, owner)}")
        elif tuple(value.shape) != item.shape:
            problems.append(f"{name} has shape {tuple(value.shape)}, the model's is {item.shape}")
            parts[item.name] = torch.empty(0)
        elif item.name not in parts:
            if holders.place is not None and not isinstance(value, Tensor):
                value = value.reaching(holders.place, axes, holders.of(item.name))
            if not holders.here(item.name):
                parts[item.name] = torch.empty(0)
                continue
            part = take_part(value, layout[item], axes) if isinstance(value, Tensor) else value.part(layout[item], axes)
            if isinstance(
                value, Stored
            ):  # it may be the mapped file itself, which somebody may write over while this rank trains
                part = part.clone()
            parts[item.name] = _made(item, part, dtype, filters)
    problems += [f"{item.name} is missing" for item in layout if item.name not in parts]
    if problems:
        rule = "every parameter and buffer of the plan is given once, whole, under its own name"
        fix = "give the state of the model that was compiled, or compile again"
        raise CheckpointError(refusal("values of the parameters", "they do not fit the plan", rule, problems, fix))
    return {item.name: parts[item.name] for item in layout if holders.here(item.name)}


def save(state: Mapping[str, Tensor], path: Path, notes: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write whole tensors to a safetensors file with notes, aside first, so that the file appears whole or not at all."""
    from safetensors.torch import save_file

    aside = path.with_name(path.name + ".tmp")
    written: dict[int, str] = {}
    separate = {}
    for name, tensor in state.items():  # the format knows no tied tensors: further names get copies
        separate[name] = (
            tensor.clone(memory_format=torch.contiguous_format) if tensor.data_ptr() in written else tensor.contiguous()
        )
        written[tensor.data_ptr()] = name
    save_file(separate, aside, dict(notes))
    aside.replace(path)


def _made(item: TensorSpec, part: Tensor, dtype: torch.dtype | None, filters: torch.memory_format) -> Tensor:
    value = part.to(precise(item.dtype, dtype))
    if item.kind not in ("parameter", "frozen"):
        return value
    value = value.contiguous(memory_format=filters) if value.dim() == 4 else value
    return nn.Parameter(value, requires_grad=item.kind == "parameter")
