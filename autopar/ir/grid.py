"""The shape of a process grid: named axes and their sizes. The live grid with its communicators is
`autopar.runtime.grid.grid.Grid`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from autopar.errors import ConfigError, nearest, refusal
from autopar.ir.layout import are_cuts

_SYNTAX = (
    "sizes joined by x, as in 4x2, or named axes, as in data=4,model=2; "
    "the first may be a place axis, as in stage:2x2 or pipe=stage:2,data=2, or a queue, as in queue:2x2 or data=queue:2,model=2"
)
_MOST = 2**20
_TAKEN = ("f", "grid", "inputs", "parameters", "program")  # in capitals, names of a generated program
STAGE = "stage"
"""The word that makes an axis one of place, and the name of such an axis in a grid without names."""
QUEUE = "queue"
"""The same of an axis whose replicas draw micro-batches from a queue."""
_KINDS = f"{STAGE}|{QUEUE}"


@dataclass(frozen=True, slots=True)
class PlaceAxis:
    """The axis over whose positions the graph itself is divided: every call stands on one of them."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class QueueAxis:
    """The axis of replicas, of which each draws micro-batches of a step from a queue; whatever is split is split inside of one."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class GridShape:
    """Names and sizes of the axes over which tensors are split, outermost first, and a place axis or a queue outside of them.

    The rank is the row-major index of its position, on the place axis or the queue first. `cuts` has the fractions at which each
    axis cuts every dim, () for one that cuts in balanced parts, and is empty where all do; the text of a grid does not say them.
    Prices are those of the largest parts, or of the rank `at` this position.

    >>> GridShape.parse("4x2")
    GridShape(names=('axis0', 'axis1'), sizes=(4, 2), place=None, queue=None)
    >>> str(GridShape.parse("data=4,model=2")), str(GridShape.parse("stage:2x4")), str(GridShape.parse("pipe=stage:2, data=3"))
    ('data=4,model=2', 'stage:2x4', 'pipe=stage:2,data=3')
    >>> GridShape.parse("queue:2x4").queue, str(GridShape.parse("data=queue:2,model=2"))
    (QueueAxis(name='queue', size=2), 'data=queue:2,model=2')
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    place: PlaceAxis | None = None
    cuts: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    queue: QueueAxis | None = None
    at: tuple[int, ...] | None = field(default=None, repr=False)

    @staticmethod
    def parse(text: str) -> GridShape:
        """Read ``4x2``, ``data=4,model=2``, ``stage:2x2`` or ``pipe=stage:2,data=2``, and ``queue`` in the place of ``stage``.

        ``4X2``, ``4*2`` and ``4,2`` mean ``4x2``.

        Raises ConfigError.
        """
        where = f"grid {text!r}"
        if match := re.fullmatch(rf"(?:({_KINDS}):)?([0-9]+([xX*,][0-9]+)*)", text.strip()):
            sizes = [_number(part) for part in re.split("[xX*,]", match[2])]
            first = [match[1]] if match[1] else []
            names = first + [f"axis{i}" for i in range(len(sizes) - len(first))]
            kinds = [match[1] or "", *[""] * (len(sizes) - 1)]
        else:
            pairs = [_named(part) for part in text.split(",")]
            bad = [part for part, pair in zip(text.split(","), pairs, strict=True) if pair is None]
            if bad:
                offenders = [f"{part!r} is no part of it" for part in bad] if len(pairs) > 1 else []
                raise ConfigError(
                    refusal(where, "not a grid", f"a grid is {_SYNTAX}", offenders, "write e.g. --grid 2x2")
                )
            names = [pair[1] for pair in pairs if pair]
            sizes = [_number(pair[3]) for pair in pairs if pair]
            kinds = [pair[2] or "" for pair in pairs if pair]
        _check(where, names, sizes, kinds)
        if not kinds[0]:
            return GridShape(tuple(names), tuple(sizes))
        place = PlaceAxis(names[0], sizes[0]) if kinds[0] == STAGE else None
        queue = QueueAxis(names[0], sizes[0]) if kinds[0] == QUEUE else None
        return GridShape(tuple(names[1:]), tuple(sizes[1:]), place, queue=queue)

    @property
    def size(self) -> int:
        """The number of ranks."""
        return math.prod(self.sizes) * self.positions * self.replicas

    @property
    def positions(self) -> int:
        """The number of positions on the place axis; 1 without one."""
        return self.place.size if self.place else 1

    @property
    def replicas(self) -> int:
        """How many replicas draw from a queue; 1 without one."""
        return self.queue.size if self.queue else 1

    @property
    def space(self) -> GridShape:
        """The grid of one position, or of one replica: the axes over which tensors are split."""
        return GridShape(self.names, self.sizes, None, self.cuts)

    def with_queue(self) -> GridShape:
        """The grid whose first axis is a queue. Raises ConfigError where a place axis stands there.

        >>> str(GridShape.parse("2x4").with_queue()), str(GridShape.parse("data=2,model=2").with_queue())
        ('queue:2x4', 'data=queue:2,model=2')
        """
        if self.place:
            rule = "a grid has one place axis or one queue at most"
            raise ConfigError(refusal(f"grid {self}", "a queue beside a place axis", rule, fix="leave one of them out"))
        if self.queue:
            return self
        text = str(self)
        return GridShape.parse(f"{QUEUE}:{text}" if "=" not in text else text.replace("=", f"={QUEUE}:", 1))

    def cut(self, cuts: Mapping[str, Sequence[float]]) -> GridShape:
        """The grid with its axes cut at these fractions, by name; those that are not named cut in balanced parts.

        Raises ConfigError for names that are no axes and for what are no fractions that rise from 0 to 1.
        """
        wrong = [f"{name}: no axis{nearest(name, self.names)}" for name in cuts if name not in self.names]
        every = {name: tuple(map(float, cuts.get(name, ()))) for name in self.names}
        wrong += [
            f"{name}: {size} ranks cannot be cut at {every[name]}"
            for name, size in zip(self.names, self.sizes, strict=True)
            if not are_cuts(size, every[name] or None)
        ]
        if wrong:
            rule = "the cuts of an axis of n ranks are n + 1 fractions that rise from 0 to 1"
            raise ConfigError(refusal(f"cuts of grid {self}", "do not fit it", rule, wrong))
        return replace(self, cuts=tuple(every.values()) if any(every.values()) else ())

    @property
    def named_cuts(self) -> dict[str, tuple[float, ...]]:
        """The fractions of the axes that do not cut in balanced parts, by name."""
        return {name: cuts for name, cuts in zip(self.names, self.cuts, strict=False) if cuts}

    @property
    def balanced(self) -> GridShape:
        """The grid with balanced parts."""
        return replace(self, cuts=(), at=None)

    def seen_from(self, rank: int) -> GridShape:
        """The grid of one position as this rank of it sees it: parts are its own."""
        return replace(self, at=unravel(rank, self.sizes))

    def cuts_of(self, axis: int) -> tuple[float, ...]:
        """The fractions of an axis, () where it cuts in balanced parts."""
        return self.cuts[axis] if self.cuts else ()

    def __str__(self) -> str:
        unnamed = self.names == tuple(f"axis{i}" for i in range(len(self.names)))
        outer, kind = self.place or self.queue, STAGE if self.place else QUEUE
        if unnamed and (outer is None or outer.name == kind):
            return "x".join([*([f"{kind}:{outer.size}"] if outer else []), *map(str, self.sizes)])
        first = [f"{outer.name}={kind}:{outer.size}"] if outer else []
        return ",".join([*first, *(f"{name}={size}" for name, size in zip(self.names, self.sizes, strict=True))])


def _named(part: str) -> re.Match[str] | None:
    return re.fullmatch(rf"\s*([a-z][a-z0-9_]*)\s*=\s*(?:({_KINDS}):)?([0-9]+)\s*", part)


def _check(where: str, names: Sequence[str], sizes: Sequence[int], kinds: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        fix = "give every axis a name of its own"
        raise ConfigError(refusal(where, "an axis name is used twice", "axis names are distinct", twice, fix))
    taken = [name for name in names if name in _TAKEN]
    if taken:
        rule = f"{', '.join(_TAKEN)} mean something else in a program"
        raise ConfigError(refusal(where, "an axis name is taken", rule, taken, "choose another name, as data or model"))
    late = [(name, kind) for name, kind in list(zip(names, kinds, strict=True))[1:] if kind]
    if late:
        rule = (
            "a grid has one place axis or one queue at most, and it is the first: ranks of one position are neighbours"
        )
        fix = f"write e.g. --grid {late[0][0]}={late[0][1]}:2,model=2"
        what = "a place axis" if late[0][1] == STAGE else "a queue"
        raise ConfigError(refusal(where, f"{what} is not the first axis", rule, [name for name, _ in late], fix))
    if min(sizes) < 1:
        fix = "leave the axis out, or give it 1 or more"
        raise ConfigError(refusal(where, "an axis has no rank", "every axis has at least 1 rank", fix=fix))
    if math.prod(sizes) > _MOST:
        raise ConfigError(
            refusal(where, "too many ranks", f"a grid has at most {_MOST} ranks", fix="use a smaller grid")
        )


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
