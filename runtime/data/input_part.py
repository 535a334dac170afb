"""Which part of a batch a rank reads: a record that a model file's ``batches(part)`` is handed.

    def batches(part):
        for step in range(part.start, len(volumes)):
            yield {"image": part.slice("image", volumes[step])[None, None], ...}

It speaks of whole inputs, in rows of their dims. Halos, and what else a rank needs of its neighbours, are the program's
business. The record holds numbers alone, so that the workers of a loader can be sent it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from autopar.errors import ConfigError, nearest, refusal
from autopar.ir.layout import Layouts
from autopar.runtime.grid.planned_axis import CutAxis, PlannedAxis
from autopar.runtime.parameters import shards
from autopar.runtime.parameters.shards import Runs
from autopar.runtime.program.plan_reader import Description, TensorSpec


class Sliceable(Protocol):
    """What slices can be read from: a tensor, a NumPy array or memmap, nibabel's dataobj, an array of Zarr or HDF5."""

    @property
    def shape(self) -> Sequence[int]:
        """The whole extents."""

    def __getitem__(self, index: tuple[slice, ...], /) -> Any:  # noqa: ANN401 (a tensor, or what NumPy understands)
        """The rows of these dims."""


@dataclass(frozen=True, slots=True)
class InputPart:
    """This rank's part of batches of `batch` rows, as the grid is cut now.

    programs  descriptions and input layouts, by which batches of which sizes are computed
    axes      the grid's, from this rank's position; none where the whole is read
    batch     rows of a whole batch, as compiled unless `of` says otherwise
    epoch     how often the batches have been gone through before
    start     the first batch that is to be yielded: those before it have been taken
    """

    programs: tuple[tuple[Description, Mapping[str, Layouts]], ...]
    axes: tuple[PlannedAxis, ...]
    batch: int
    epoch: int = 0
    start: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs, in the order of forward's arguments."""
        return tuple(item.name for item in self.programs[0][0].inputs)

    def of(self, batch: int) -> InputPart:
        """The part of a batch of so many rows, as the last one may be."""
        return replace(self, batch=batch)

    def whole_shape(self, name: str) -> tuple[int, ...]:
        """The extents of a whole input."""
        item, batched = self._input(name)
        return (self.batch, *item.shape[1:]) if batched else item.shape

    def shape(self, name: str) -> tuple[int, ...]:
        """The extents of this rank's part of an input."""
        shape, (described, layouts) = self.whole_shape(name), self._program()
        if not self.axes:
            return shape
        if described.division is None or name not in described.batched:
            return shards.local_shape(shape, layouts[name], self.axes)
        sizes = [high - low for low, high in itertools.pairwise(described.microbatches(self.batch))]
        parts = [shards.local_shape((size, *shape[1:]), layouts[name], self.axes) for size in sizes]
        return (sum(part[0] for part in parts), *parts[0][1:])

    def rows(self, name: str) -> tuple[Runs, ...]:
        """For every dim of an input, the rows of the whole that are this rank's, as half-open intervals in their order.

        Of a batch that is computed in micro-batches, these are its rows of every micro-batch, one after another. Raises ConfigError
        for a name that is no input's.
        """
        shape, (described, layouts) = self.whole_shape(name), self._program()
        if not self.axes:
            return tuple(((0, extent),) if extent else () for extent in shape)
        if described.division is None or name not in described.batched:
            return shards.rows(shape, layouts[name], self.axes)
        first: list[tuple[int, int]] = []
        for low, high in itertools.pairwise(described.microbatches(self.batch)):
            runs, *others = shards.rows((high - low, *shape[1:]), layouts[name], self.axes)
            first += [(low + start, low + stop) for start, stop in runs]
        return (_joined(first), *others)

    def samples(self, name: str) -> list[int]:
        """The rows of the batch that this rank has of an input: samples to be read one by one."""
        return [row for start, stop in self.rows(name)[0] for row in range(start, stop)]

    def slice(self, name: str, source: Sliceable, first: int = 0) -> Tensor:
        """This rank's part of an input, in its dtype, read from a source of the whole; nothing else of it is read.

        A source of fewer dims stands for the last ones, as one volume does for an input of batch, channel and space. Row
        `first` of a source of all dims is the first of the batch. Raises ConfigError where the extents are others.
        """
        item, batched = self._input(name)
        skipped = len(item.shape) - len(source.shape)
        shape, runs = self.whole_shape(name)[max(skipped, 0) :], self.rows(name)[max(skipped, 0) :]
        shifts = [first if batched and not skipped and dim == 0 else 0 for dim in range(len(shape))]
        bounded = [
            n >= shift + m if shift else n == m for n, m, shift in zip(source.shape, shape, shifts, strict=False)
        ]
        if batched and not skipped and source.shape[0] >= first + self.batch:
            bounded[0] = True  # a data set that goes on
        if skipped < 0 or not all(bounded):
            rule = f"it has the extents of the whole {name}, {list(shape)}, or of its last dims"
            raise ConfigError(refusal(f"slice({name!r})", f"the source has extents {list(source.shape)}", rule))
        part = torch.empty([sum(stop - start for start, stop in one) for one in runs], dtype=item.dtype)
        for block in itertools.product(*map(_placed, runs)):
            here = tuple(at for at, _ in block)
            there = tuple(slice(low + n, high + n) for (_, (low, high)), n in zip(block, shifts, strict=True))
            part[here].copy_(_tensor(source[there]))
        return part

    def _input(self, name: str) -> tuple[TensorSpec, bool]:
        described = self.programs[0][0]
        item = next((item for item in described.inputs if item.name == name), None)
        if item is None:
            problem = f"{name!r} is no input{nearest(name, self.names)}"
            raise ConfigError(refusal("part of a batch", problem, f"the inputs are {', '.join(self.names)}"))
        return item, name in described.batched

    def _program(self) -> tuple[Description, Mapping[str, Layouts]]:
        return next((one for one in self.programs if one[0].accepts(self.batch)), self.programs[0])


def input_part(
    programs: Sequence[tuple[Description, Mapping[str, Layouts]]], axes: Sequence[CutAxis], batch: int | None = None
) -> InputPart:
    """The part at these axes' positions, as they are cut now; the whole without axes."""
    planned = tuple(PlannedAxis(axis.name, axis.size, axis.index, axis.cuts) for axis in axes)
    own = tuple((described, dict(layouts)) for described, layouts in programs)
    return InputPart(own, planned, programs[0][0].rows if batch is None else batch)


def _joined(runs: Sequence[tuple[int, int]]) -> Runs:
    """Runs of which no two touch.

    >>> _joined([(0, 2), (2, 4), (6, 7)])
    ((0, 4), (6, 7))
    """
    joined: list[tuple[int, int]] = []
    for start, stop in runs:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return tuple(joined)


def _placed(runs: Runs) -> list[tuple[slice, tuple[int, int]]]:
    """Where the rows of every run lie in the part."""
    ends = list(itertools.accumulate(stop - start for start, stop in runs))
    return [(slice(end - stop + start, end), (start, stop)) for end, (start, stop) in zip(ends, runs, strict=True)]


def _tensor(piece: Any) -> Tensor:  # noqa: ANN401 (what a source gives)
    """A piece as a tensor; numbers in the other byte order, which files have, are turned round."""
    if isinstance(piece, Tensor):
        return piece
    if not piece.dtype.isnative:
        piece = piece.astype(piece.dtype.newbyteorder("="))
    return torch.tensor(piece)
