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
    done = dict.fromkeys(choice for base in bases for choice in base)
    allowed = [_allowed(done, choices) for choices in per_axis]
    mended = [_mended(base, per_axis) for base in bases]
    every = dict.fromkeys((*mended, *itertools.islice(itertools.product(*allowed), _TRIED)))
    yield from sorted(every, key=lambda strategy: min(_apart(strategy, base) for base in mended))


def _first(choices: Sequence[Choice]) -> Choice:
    return next((choice for choice in choices if choice.mode == "replicate"), choices[0])


def _around(strategy: tuple[Choice, ...], per_axis: Sequence[Sequence[Choice]]) -> Iterator[tuple[Choice, ...]]:
    yield strategy
    for axis, choices in enumerate(per_axis):
        for choice in choices:
            if choice != strategy[axis]:
                yield (*strategy[:axis], choice, *strategy[axis + 1 :])


def _mended(base: tuple[Choice, ...], per_axis: Sequence[Sequence[Choice]]) -> tuple[Choice, ...]:
    pairs = zip(base, per_axis, strict=True)
    return tuple(choice if choice in choices else _first(choices) for choice, choices in pairs)


def _allowed(done: dict[Choice, None], choices: Sequence[Choice]) -> list[Choice]:
    kept = [choice for choice in done if choice in choices]
    kept += [choice for choice in choices if choice.mode in _WHOLE and choice not in done]
    return kept or list(choices)


def _apart(strategy: tuple[Choice, ...], other: tuple[Choice, ...]) -> int:
    return sum(choice != same for choice, same in zip(strategy, other, strict=True))
