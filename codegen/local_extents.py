"""Local extents as Python expressions: what a rank holds of a dim whose factors are split over axes.

A dim of extent n that is split by several axes is cut into factors at the boundaries of their readings `blocks x m x unit`. A
factor that no axis splits is a literal; a factor split over DATA is ``DATA.part(m)``; split over two axes the outer one
cuts first: ``MODEL.part(DATA.part(m))``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autopar.ir.layout import Layouts, Shard
from autopar.ops.record.emit_context import Local
from autopar.ops.record.rule import Choice, Rule


@dataclass(frozen=True, slots=True)
class Split:
    """One axis's split of a dim (or letter): the axis's name in the program and the reading it cuts."""

    axis: str
    blocks: int
    unit: int


@dataclass(frozen=True, slots=True)
class LocalShard:
    """How a primitive over one axis sees a dim: blocks, extent of the factor's dim once whole over the axis, and unit."""

    blocks: str
    extent: str
    unit: str


def product(factors: Iterable[str]) -> str:
    """The product of expressions, literals multiplied out and written last.

    >>> product(["3", "MODEL.part(12)", "64"])
    'MODEL.part(12) * 192'
    """
    known = list(factors)
    literal = math.prod(int(factor) for factor in known if factor.isdigit())
    names = [factor for factor in known if not factor.isdigit()]
    return " * ".join([*names, str(literal)] if literal != 1 or not names else names)


def local_extent(extent: int, splits: Sequence[Split]) -> str:
    """The expression of what this rank holds of a dim of this extent."""
    if not splits:
        return str(extent)
    return product(text for _, text in _factors(extent, splits))


def around(extent: int, splits: Sequence[Split], axis: Split) -> LocalShard:
    """What a primitive over `axis` must be told of a dim that the other `splits` have cut already."""
    factors = _factors(extent, splits, of=axis)
    low, high = axis.unit, extent // axis.blocks
    left = [text for (start, _), text in factors if start >= high]
    right = [text for (_, stop), text in factors if stop <= low]
    return LocalShard(product(left), product(text for _, text in factors), product(right))


def _factors(extent: int, splits: Sequence[Split], of: Split | None = None) -> list[tuple[tuple[int, int], str]]:
    """The factors, outermost first, as ((unit, extent from there on), expression); `of` is taken as a boundary but not cut."""
    every = [*splits, of] if of else list(splits)
    if extent == 0:
        return [((0, 0), "0")]  # a letter that shares a dim with an empty one is split by nobody
    points = {1, extent} | {split.unit for split in every} | {extent // split.blocks for split in every}
    marks = sorted(points)
    cut = []
    for low, high in itertools.pairwise(marks):
        text = str(high // low)
        for split in splits:
            if (split.unit, extent // split.blocks) == (low, high):
                text = f"{split.axis}.part({text})"
        cut.append(((low, high), text))
    factors = [span for span, _ in cut]
    assert all((split.unit, extent // split.blocks) in factors for split in splits), (
        f"{splits} cut {extent} across each other"
    )
    return cut[::-1]


def splits_of(layouts: Layouts, dim: int, axes: Sequence[str], without: int | None = None) -> list[Split]:
    """The splits of one dim under these layouts, outer axes first, one axis left out on request."""
    return [
        Split(name, layout.blocks, layout.unit)
        for i, (name, layout) in enumerate(zip(axes, layouts, strict=True))
        if i != without and isinstance(layout, Shard) and layout.dim == dim
    ]


def local_of(rule: Rule, strategy: Sequence[Choice], axes: Sequence[str]) -> Local:
    """What an emitter is told about the rank-local call of a strategy; `axes` are the axes' names in the program."""
    cuts: dict[str, list[Split]] = {}
    for axis, choice in zip(axes, strategy, strict=True):
        if choice.mode == "split":
            cuts.setdefault(choice.letter, []).append(Split(axis, choice.blocks, choice.unit))
    extents = {letter: local_extent(extent, cuts.get(letter, ())) for letter, extent in rule.extents.items()}
    axes_of = {letter: tuple(split.axis for split in splits) for letter, splits in cuts.items()}
    readings = {
        letter: tuple((split.axis, split.blocks, split.unit) for split in splits) for letter, splits in cuts.items()
    }
    return Local(axes_of, extents, readings)
