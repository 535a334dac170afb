"""Common factors of two shapes: the letters of a reshape.

    (8, 256, 384)  -> (2048, 384)         a b c -> (a b) c
    (8, 2304)      -> (8, 3, 12, 64)      a (b c d) -> a b c d
    (4, 6)         -> (8, 3)              a (b c) -> (a b) c        with a = 4, b = 2, c = 3

Both shapes are read from the left, and dims are taken into a group until both sides have the same product. Inside a
group the prefix products of both sides are the places where some dim ends; if each divides the next, the quotients
are letters and every dim is a product of consecutive letters. Otherwise the group's dims do not share factors, and
are frozen.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from autopar.ops.record.rule import Dims


@dataclass(frozen=True, slots=True)
class Factored:
    """Letters of the dims of both shapes, their extents, and which are frozen."""

    before: Dims
    after: Dims
    extents: dict[str, int]
    frozen: frozenset[str]


def factor(before: Sequence[int], after: Sequence[int]) -> Factored:
    """The letters of a reshape. Raises ValueError where a shape has no elements.

    >>> factor((8, 256, 384), (2048, 384)).after
    (('a', 'b'), ('c',))
    >>> sorted(factor((2, 3), (3, 2)).frozen)
    ['a', 'b', 'c', 'd']
    """
    if math.prod(before) == 0:
        raise ValueError("a tensor without elements")
    names = (f"{'abcdefghijklmnopqrstuvwxyz'[i % 26]}{i // 26 or ''}" for i in itertools.count())
    left: list[tuple[str, ...]] = []
    right: list[tuple[str, ...]] = []
    extents: dict[str, int] = {}
    frozen: set[str] = set()
    for old, new in _groups(before, after):
        marks = sorted({1, *itertools.accumulate(old, operator.mul), *itertools.accumulate(new, operator.mul)})
        aligned = all(high % low == 0 for low, high in itertools.pairwise(marks))
        spans = {(low, high): next(names) for low, high in itertools.pairwise(marks)} if aligned else {}
        for shape, dims in ((old, left), (new, right)):
            start = 1
            for n in shape:
                letters = tuple(name for (low, high), name in spans.items() if start <= low and high <= start * n)
                if not aligned and n > 1:
                    letters = (next(names),)
                    extents[letters[0]] = n
                    frozen.add(letters[0])
                dims.append(letters)
                start *= n
        extents |= {name: high // low for (low, high), name in spans.items()}
    return Factored(tuple(left), tuple(right), extents, frozenset(frozen))


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The shapes cut into the shortest runs of dims that hold equally many elements; dims of extent 1 join any run."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        old: list[int] = []
        new: list[int] = []
        while not (old or new) or math.prod(old) != math.prod(new):
            if j == len(after) or (i < len(before) and math.prod(old) <= math.prod(new)):
                old.append(before[i])
                i += 1
            else:
                new.append(after[j])
                j += 1
        groups.append((old, new))
    return groups
