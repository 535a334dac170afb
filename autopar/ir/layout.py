"""How one tensor lies on the ranks of one grid axis, and what its gradient then is.

Vocabulary: an `axis` is the grid's, a `dim` a tensor's, a `rank` MPI's. The layout of a tensor on a grid is a tuple with
one layout per axis (`Layouts`). For every layout there is a dual, the layout of the tensor's gradient:

    Replicate  every rank holds the tensor, all uses see one tensor         dual Replicate
    Shard      rank i holds the i-th part of a dim                          dual Shard, the same
    Partial    every rank holds an addend; the tensor is their sum          dual Copied
    Copied     every rank holds the tensor, and each rank's use of it
               yields only an addend of its gradient                        dual Partial

The adjoint of a conversion `A -> B` is the conversion `dual(B) -> dual(A)` (Hewett and Grady, arXiv 2006.03108, section 2:
the adjoint of a copy is a sum). Replicate and Copied hold the same numbers and differ in what their gradient means; mixing
them scales gradients by the axis size and passes every shape check, so they are two types.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Replicate:
    """Every rank of the axis holds the whole tensor, and all their uses are one use."""

    def __str__(self) -> str:
        return "replicate"


@dataclass(frozen=True, slots=True)
class Copied:
    """Every rank of the axis holds the whole tensor; the gradient is the sum of what the ranks compute."""

    def __str__(self) -> str:
        return "copied"


@dataclass(frozen=True, slots=True)
class Partial:
    """Every rank of the axis holds an addend; the tensor is their sum."""

    def __str__(self) -> str:
        return "partial"


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank i of the axis holds the i-th part of `dim`.

    The dim of extent n is read as `blocks x m x unit` (row-major) and the middle factor of extent m is cut at the axis's
    bounds for m, so that rank i holds rows ``bounds[i]:bounds[i+1]`` of each block, in units of `unit`. A plain split has
    one block and unit 1. A fused query-key-value dim split over heads is ``Shard(dim, blocks=3, unit=head_size)``.
    Bounds are looked up when the program runs (`autopar.runtime.grid.grid.Axis.bounds`): they may be uneven, parts may be empty.
    """

    dim: int
    blocks: int = 1
    unit: int = 1

    def __str__(self) -> str:
        inner = f" as {self.blocks}x_x{self.unit}" if (self.blocks, self.unit) != (1, 1) else ""
        return f"shard {self.dim}{inner}"


Layout = Replicate | Copied | Partial | Shard
Layouts = tuple[Layout, ...]


def dual(layout: Layout) -> Layout:
    """The layout of the gradient of a tensor with this layout."""
    if isinstance(layout, Partial):
        return Copied()
    if isinstance(layout, Copied):
        return Partial()
    return layout


def muddles(operands: Iterable[Layout], results: Iterable[Layout]) -> bool:
    """Whether a call would take one meaning of whole for the other, whatever it computes.

    `read` and `made` are how a gradient's tensors lie on one axis before and behind the call. Behind Replicate every rank
    has the whole gradient, behind all others an addend or a part of it. So a rank that reads Copied, whose gradients are
    summed, may not make Replicate: the sum would count it once per rank. One that reads Replicate, whose gradients are
    not, may make nothing else.
    """
    before, behind = set(map(type, operands)), set(map(type, results))
    return (Copied in before and Replicate in behind) or (Replicate in before and bool(behind - {Replicate}))


def even_bounds(extent: int, parts: int) -> tuple[int, ...]:
    """The balanced cut of `extent` rows into `parts`: sizes differ by at most one, the larger ones first.

    >>> even_bounds(11, 3)
    (0, 4, 8, 11)
    >>> even_bounds(2, 3)
    (0, 1, 2, 2)
    """
    size, extra = divmod(extent, parts)
    return tuple(size * i + min(i, extra) for i in range(parts + 1))


def cut_bounds(extent: int, parts: int, cuts: Sequence[float] = ()) -> tuple[int, ...]:
    """Where an axis of so many ranks cuts `extent` rows: ``floor(c_i * extent + 1/2)``, or balanced where it has no cuts.

    >>> cut_bounds(48, 2, (0, 2 / 3, 1))
    (0, 32, 48)
    """
    return tuple(math.floor(cut * extent + 0.5) for cut in cuts) if cuts else even_bounds(extent, parts)


def are_cuts(size: int, cuts: Sequence[float] | None) -> bool:
    """Whether an axis of so many ranks can be cut at these fractions: they rise from 0 to 1, or there are none.

    >>> are_cuts(2, (0, 2 / 3, 1)), are_cuts(2, (0, 1)), are_cuts(2, None)
    (True, False, True)
    """
    if cuts is None:
        return True
    ends = len(cuts) == size + 1 and (cuts[0], cuts[-1]) == (0.0, 1.0)
    return ends and all(low <= high for low, high in pairwise(cuts))


def parse_layout(text: str) -> Layout:
    """The inverse of ``str(layout)``. Raises ValueError for anything else.

    >>> parse_layout("shard 1 as 3x_x64")
    Shard(dim=1, blocks=3, unit=64)
    """
    words: dict[str, Layout] = {str(layout): layout for layout in (Replicate(), Copied(), Partial())}
    if text in words:
        return words[text]
    match = re.fullmatch(r"shard (\d+)(?: as (\d+)x_x(\d+))?", text)
    if match is None:
        raise ValueError(f"not a layout: {text!r}")
    return Shard(*(int(number) for number in match.groups("1")))
