"""What a call may do where the combinations of all axes are too many: mixtures, axis by axis, of what it does in some plans."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from autopar.ops.record.rule import Choice

MOST = 256
"""Strategies of a call that are priced at most."""
_TRIED = 20_000
_WHOLE = ("replicate", "copied")


def mixtures(bases: Sequence[tuple[Choice, ...]], per_axis: Sequence[Sequence[Choice]]) -> Iterator[tuple[Choice, ...]]:
    """On each axis what one of the bases does on any, or the whole; those nearest to a base first.

    What an axis does not allow (`per_axis`) is replaced by what it does. Without bases: the whole, and what differs from it on one
    axis.
    """
    if not bases:
        yield from _around(tuple(_first(choices) for choices in per_axis), per_axis)
        return
    done = dict.fromkeys(choice for one in bases for choice in one)
    allowed = [_allowed(done, choices) for choices in per_axis]
    mended = [_mended(one, per_axis) for one in bases]
    every = dict.fromkeys((*mended, *itertools.islice(itertools.product(*allowed), _TRIED)))
    yield from sorted(every, key=lambda one: min(_apart(one, base) for base in mended))


def _first(choices: Sequence[Choice]) -> Choice:
    return next((one for one in choices if one.mode == "replicate"), choices[0])


def _around(one: tuple[Choice, ...], per_axis: Sequence[Sequence[Choice]]) -> Iterator[tuple[Choice, ...]]:
    yield one
    for axis, choices in enumerate(per_axis):
        for choice in choices:
            if choice != one[axis]:
                yield (*one[:axis], choice, *one[axis + 1 :])


def _mended(base: tuple[Choice, ...], per_axis: Sequence[Sequence[Choice]]) -> tuple[Choice, ...]:
    pairs = zip(base, per_axis, strict=True)
    return tuple(choice if choice in choices else _first(choices) for choice, choices in pairs)


def _allowed(done: dict[Choice, None], choices: Sequence[Choice]) -> list[Choice]:
    kept = [one for one in done if one in choices]
    kept += [one for one in choices if one.mode in _WHOLE and one not in done]
    return kept or list(choices)


def _apart(one: tuple[Choice, ...], other: tuple[Choice, ...]) -> int:
    return sum(choice != same for choice, same in zip(one, other, strict=True))
