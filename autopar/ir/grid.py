"""The shape of a process grid: named axes and their sizes. The live grid with its communicators is
`autopar.runtime.grid.grid.Grid`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from autopar.errors import ConfigError, refusal

_SYNTAX = "sizes joined by x, as in 4x2, or named axes, as in data=4,model=2"
_MOST = 2**20
_TAKEN = ("f", "grid", "inputs", "parameters", "program")  # in capitals, names of a generated program


@dataclass(frozen=True, slots=True)
class GridShape:
    """Axis names and sizes, outermost axis first: rank = row-major index of its position.

    >>> GridShape.parse("4x2")
    GridShape(names=('axis0', 'axis1'), sizes=(4, 2))
    >>> str(GridShape.parse("data=4,model=2"))
    'data=4,model=2'
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    @staticmethod
    def parse(text: str) -> GridShape:
        """Read ``4x2`` or ``data=4,model=2``; ``4X2``, ``4*2`` and ``4,2`` mean ``4x2``. Raises ConfigError."""
        where = f"grid {text!r}"
        if re.fullmatch(r"[0-9]+([xX*,][0-9]+)*", text.strip()):
            sizes = tuple(_number(part) for part in re.split("[xX*,]", text.strip()))
            names = tuple(f"axis{i}" for i in range(len(sizes)))
        else:
            pairs = [re.fullmatch(r"\s*([a-z][a-z0-9_]*)\s*=\s*([0-9]+)\s*", part) for part in text.split(",")]
            bad = [part for part, pair in zip(text.split(","), pairs, strict=True) if pair is None]
            if bad:
                offenders = [f"{part!r} is no part of it" for part in bad] if len(pairs) > 1 else []
                raise ConfigError(
                    refusal(where, "not a grid", f"a grid is {_SYNTAX}", offenders, "write e.g. --grid 2x2")
                )
            names = tuple(pair.group(1) for pair in pairs if pair)
            sizes = tuple(_number(pair.group(2)) for pair in pairs if pair)
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            fix = "give every axis a name of its own"
            raise ConfigError(refusal(where, "an axis name is used twice", "axis names are distinct", twice, fix))
        taken = [name for name in names if name in _TAKEN]
        if taken:
            rule = f"{', '.join(_TAKEN)} mean something else in a program"
            raise ConfigError(
                refusal(where, "an axis name is taken", rule, taken, "choose another name, as data or model")
            )
        if min(sizes) < 1:
            fix = "leave the axis out, or give it 1 or more"
            raise ConfigError(refusal(where, "an axis has no rank", "every axis has at least 1 rank", fix=fix))
        if math.prod(sizes) > _MOST:
            raise ConfigError(
                refusal(where, "too many ranks", f"a grid has at most {_MOST} ranks", fix="use a smaller grid")
            )
        return GridShape(names, sizes)

    @property
    def size(self) -> int:
        """The number of ranks."""
        return math.prod(self.sizes)

    def __str__(self) -> str:
        if self.names == tuple(f"axis{i}" for i in range(len(self.names))):
            return "x".join(map(str, self.sizes))
        return ",".join(f"{name}={size}" for name, size in zip(self.names, self.sizes, strict=True))


def unravel(place: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The index of a place in an array, row-major: the position of a rank.

    >>> unravel(5, (2, 3))
    (1, 2)
    """
    index = []
    for extent in reversed(shape):
        place, at = divmod(place, extent)
        index.append(at)
    return tuple(reversed(index))


def ravel(index: Sequence[int], shape: Sequence[int]) -> int:
    """The inverse of `unravel`."""
    place = 0
    for at, extent in zip(index, shape, strict=True):
        place = place * extent + at
    return place


def _number(digits: str) -> int:
    return int(digits) if len(digits) < 10 else _MOST + 1
