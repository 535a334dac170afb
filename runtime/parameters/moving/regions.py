"""Some rows of every dim of a part: what one rank hands to another where boundaries move.

The rows of a dim are runs, half-open intervals that rise. A part of a tensor is the product of the rows of its dims (see
`autopar.runtime.parameters.shards.rows`), and so is what two parts have in common. `overlap` says where in either part it lies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from autopar.runtime.parameters.shards import Runs


@lru_cache(maxsize=1 << 16)
def overlap(before: Runs, after: Runs) -> tuple[Runs, Runs]:
    """The rows that are in both, by their places among those of `before`, and among those of `after`.

    >>> overlap(((0, 4), (8, 12)), ((2, 6), (10, 14)))
    (((2, 4), (6, 8)), ((0, 2), (4, 6)))
    """
    left: list[tuple[int, int]] = []
    right: list[tuple[int, int]] = []
    i = j = past = beyond = 0  # the current runs, and how many rows stand in those before them
    while i < len(before) and j < len(after):
        low, high = max(before[i][0], after[j][0]), min(before[i][1], after[j][1])
        if low < high:
            _append(left, past + low - before[i][0], high - low)
            _append(right, beyond + low - after[j][0], high - low)
        if before[i][1] <= after[j][1]:
            past += before[i][1] - before[i][0]
            i += 1
        else:
            beyond += after[j][1] - after[j][0]
            j += 1
    return tuple(left), tuple(right)


def count(runs: Runs) -> int:
    """How many rows they are."""
    return sum(stop - start for start, stop in runs)


@dataclass(frozen=True, slots=True)
class Region:
    """The elements of a part in these rows of its dims."""

    dims: tuple[Runs, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """How many rows of every dim."""
        return tuple(map(count, self.dims))

    @property
    def numel(self) -> int:
        """How many elements."""
        return math.prod(self.shape)

    def pieces(self, most: int) -> Iterator[Region]:
        """The region in pieces of at most `most` elements, alike for all regions of a shape."""
        shape = self.shape
        if self.numel <= most:
            yield self
            return
        longest = max(range(len(shape)), key=shape.__getitem__)
        rows = max(1, most * shape[longest] // self.numel)
        for first in range(0, shape[longest], rows):
            taken = _slice(self.dims[longest], first, first + rows)
            yield from Region((*self.dims[:longest], taken, *self.dims[longest + 1 :])).pieces(most)

    def take(self, part: Tensor) -> Tensor:
        """These elements of a part; a view where the rows of every dim lie in one run."""
        for dim, runs in enumerate(self.dims):
            if len(runs) == 1:
                part = part.narrow(dim, runs[0][0], runs[0][1] - runs[0][0])
            else:
                part = part.index_select(dim, _index(runs, part.device))
        return part

    def put(self, part: Tensor, values: Tensor) -> None:
        """Write `values`, of the region's shape, to these elements of a part."""
        if all(len(runs) == 1 for runs in self.dims):
            self.take(part).copy_(values)
            return
        places = [_index(runs, part.device) for runs in self.dims]
        last = len(places) - 1
        part[tuple(at.view(-1, *(1,) * (last - dim)) for dim, at in enumerate(places))] = values


def _append(runs: list[tuple[int, int]], start: int, rows: int) -> None:
    """Add a run behind the others; one that goes on where the last one ends is one with it."""
    first = runs.pop()[0] if runs and runs[-1][1] == start else start
    runs.append((first, start + rows))


def _slice(runs: Runs, first: int, stop: int) -> Runs:
    """The rows from place `first` up to `stop` among those of the runs."""
    return tuple(
        (low, high)
        for start, end, past in _placed(runs)
        if (low := max(start, start + first - past)) < (high := min(end, start + stop - past))
    )


def _placed(runs: Runs) -> Iterator[tuple[int, int, int]]:
    """The runs, each with how many rows stand before it."""
    past = 0
    for start, end in runs:
        yield start, end, past
        past += end - start


def _index(runs: Runs, device: torch.device) -> Tensor:
    return torch.cat([torch.arange(start, stop, device=device) for start, stop in runs])
