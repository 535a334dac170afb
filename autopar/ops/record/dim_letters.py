"""Rules of calls whose dims keep their places: a letter per dim, ``d0 d1 ...``, but for a few dims that the call changes.

tril         lettered(call, [named(shape)], [named(shape)])
stack        lettered(call, [named(shape)] * 2, [named(result, {dim: "q"})], frozen="q")
conv2d       is written in the notation instead (`autopar.ops.record.rule.letters`)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from autopar.ops.record.rule import Call, Dims, Rule, broadcast, floating, letters, with_linear

_NONE: Mapping[int, str] = MappingProxyType({})


def named(shape: Sequence[int], other: Mapping[int, str] = _NONE, prefix: str = "d") -> Dims:
    """One letter per dim; a dim in `other` has the letters that are written there, ``"q n"``."""
    return tuple(tuple(other[i].split()) if i in other else (f"{prefix}{i}",) for i in range(len(shape)))


def joint_shape(shapes: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """What shapes are broadcast to: the largest extent of every dim, counted from the right."""
    columns = itertools.zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    return tuple(max(column) for column in columns)[::-1]


def aligned(shape: Sequence[int], names: Dims, full: Sequence[int]) -> Dims:
    """The letters of a tensor that is broadcast to the shape `full` with these letters: none of a dim that is repeated."""
    skip = len(full) - len(shape)
    return tuple(names[skip + i] if n == full[skip + i] else () for i, n in enumerate(shape))


def lettered(
    call: Call,
    operands: Sequence[Dims],
    results: Sequence[Dims],
    frozen: Iterable[str] = (),
    more: Mapping[str, int] | None = None,
) -> Rule:
    """The rule with the letters of every dim. A letter that is a dim of its own has that dim's extent, the result's if both.

    `more` has the extents of the other letters. Results that nobody reads have no letters.
    """
    read = [dims if value.name else () for dims, value in zip(results, call.results, strict=True)]
    tensors = zip((*operands, *read), (*call.operands, *call.results), strict=True)
    extents = {
        names[0]: n for dims, value in tensors for names, n in zip(dims, value.shape, strict=False) if len(names) == 1
    }
    return Rule(tuple(operands), tuple(read), extents | dict(more or {}), frozenset(frozen))


def pointwise(*groups: Collection[int]) -> Callable[[Call], Rule]:
    """Elementwise calls, jointly linear in each of these groups of operands where all tensors are numbers that add up."""

    def rule(call: Call) -> Rule:
        linear = all(map(floating, (*call.operands, *call.results)))
        return with_linear(broadcast(call), *groups) if linear else broadcast(call)

    return rule


def noted(notation: str, *groups: Collection[int]) -> Callable[[Call], Rule]:
    """Calls with these letters, jointly linear in each of these groups of operands."""
    return lambda call: with_linear(letters(notation, call), *groups)
