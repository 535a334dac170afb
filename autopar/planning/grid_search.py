"""``--grid auto -n 8``: the grids that so many ranks can form, and the one with the shortest predicted step.

Candidates have one, two or three axes of two or more ranks. Two orders of the same sizes are one candidate where the machine's
nodes make no difference between them: inside a node 4x2 and 2x4 are the same grid.

Grids with a place axis are tried where the ranks are on several nodes, a position or a few of them to a node, since what crosses
between positions is little: the likeliest before all others. On one node they follow where no other grid meets the memory limit.

Where something stops ranks now and then (`Machine.stalls`), those of the fewest axes are tried with a queue, too: predicted steps
have in them what stalls add, and a queue is taken where it saves more of that than its micro-batches cost.

A grid whose plan would miss the memory limit, and whose step is even without that limit no shorter than the best plan's, is passed
over: what the limit asks for only takes longer. Where the grids of one and two axes take more than `FAR` times as long as one with
a place axis, those of three, which send over the same links, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from autopar.errors import AutoparError, ConfigError, InfeasiblePlan, refusal
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine
from autopar.ir.plan import Options, Plan
from autopar.partitioner.problem import NotShorter
from autopar.planning.place_axis.schedule_options import asks_for_place

AUTO = "auto"
AXES = 3
MOST = 24
"""Candidates that are tried; where there are more, those of fewer axes, then of more even sizes."""
MOST_PLACED = 3
"""Candidates with a place axis."""
MOST_QUEUED = 3
"""Candidates with a queue."""
FAR = 2.0
"""How many times as long as the best step those of one and two axes may be before those of three are left out."""
_EQUAL = 1e-9


class Planned(Protocol):
    """Whatever has a plan: a compiled model."""

    @property
    def plan(self) -> Plan: ...  # noqa: D102 (the class says it)


AnyPlanned = TypeVar("AnyPlanned", bound=Planned)


@dataclass(frozen=True, slots=True)
class Tried:
    """One grid that was planned: seconds and bytes of a step on one rank, the plan's gap, or why it has no plan or needs none.

    `least` are seconds that no step on it is shorter than, of a grid that was passed over.
    """

    grid: str
    seconds: float = 0.0
    bytes: int = 0
    gap: float = 0.0
    refused: str = ""
    least: float = 0.0


def check(grid: str | GridShape, ranks: int | None) -> None:
    """Raise ConfigError unless ``auto`` comes with a number of ranks, and another grid with none or its own."""
    if grid == AUTO and ranks is None:
        fault = "the number of ranks is not given"
        raise ConfigError(refusal("grid 'auto'", fault, "auto needs a number of ranks", fix="write --grid auto -n 8"))
    if ranks is not None and (isinstance(ranks, bool) or ranks < 1):
        raise ConfigError(refusal("ranks", f"{ranks!r}", "there is at least 1 rank", fix="write e.g. -n 8"))
    if grid != AUTO and ranks is not None:
        size = (grid if isinstance(grid, GridShape) else GridShape.parse(grid)).size
        if size != ranks:
            fix = "leave -n out, or write --grid auto"
            raise ConfigError(
                refusal(f"grid {str(grid)!r}", f"has {size} ranks, not {ranks}", "a grid says its ranks", fix=fix)
            )


def candidates(ranks: int, machine: Machine) -> tuple[GridShape, ...]:
    """The grids of so many ranks, fewer axes first, then more even sizes, larger sizes outermost.

    >>> from autopar.ir.machine import load
    >>> [str(one) for one in candidates(8, load("cpu"))]
    ['8', '4x2', '2x2x2']
    """
    by_sizes: dict[tuple[object, ...], GridShape] = {}
    for count in range(1, AXES + 1):
        shapes = sorted(_sizes(ranks, count), key=lambda sizes: (max(sizes), tuple(-size for size in sizes)))
        for sizes in shapes:
            shape = GridShape.parse("x".join(map(str, sizes)))
            by_sizes.setdefault(tuple(sorted(zip(sizes, _nodes(machine, sizes), strict=True))), shape)
    return tuple(by_sizes.values())[:MOST]


def with_place_axis(ranks: int, machine: Machine) -> tuple[GridShape, ...]:
    """Grids of so many ranks whose first axis is of place: as many positions as nodes, then others, the nearest first.

    >>> from autopar.ir.machine import load
    >>> [str(shape) for shape in with_place_axis(64, load("h100"))], [str(shape) for shape in with_place_axis(6, load("cpu"))]
    (['stage:8x8', 'stage:4x16', 'stage:16x4'], ['stage:2x3', 'stage:3x2', 'stage:6'])
    """
    nodes = max(2, -(-ranks // machine.ranks_per_node))
    sizes = [size for size in range(2, ranks + 1) if ranks % size == 0]
    sizes = sorted(sizes, key=lambda size: (abs(math.log(size / nodes)), size))[:MOST_PLACED]
    return tuple(GridShape.parse(f"stage:{size}" + f"x{ranks // size}" * (size < ranks)) for size in sizes)


def _nodes(machine: Machine, sizes: tuple[int, ...]) -> Iterator[int]:
    """Per axis, over how many nodes its groups of ranks reach at most."""
    nodes = (np.arange(math.prod(sizes)) // machine.ranks_per_node).reshape(sizes)
    for axis in range(len(sizes)):
        groups = np.sort(np.moveaxis(nodes, axis, -1).reshape(-1, sizes[axis]), axis=1)
        yield int((np.diff(groups, axis=1) > 0).sum(axis=1).max() + 1)


def _sizes(ranks: int, count: int) -> Iterator[tuple[int, ...]]:
    """The ways to write a number as a product of so many factors of at least 2; a single 1 for one rank."""
    if count == 1:
        if ranks > 1:
            yield (ranks,)
        return
    for first in range(2, ranks // 2 + 1):
        if ranks % first == 0:
            yield from ((first, *rest) for rest in _sizes(ranks // first, count - 1))


def search(
    ranks: int,
    machine: Machine,
    options: Options,
    compile: Callable[[GridShape, Options, float], AnyPlanned],
    *,
    queue: bool = False,
) -> tuple[AnyPlanned, tuple[Tried, ...]]:
    """Compile for every candidate, each with an equal share of the time limit; the one of the shortest predicted step, and all.

    `compile` is told the seconds of the shortest step so far, and raises NotShorter where it finds none that is shorter. Of equal
    ones the first is taken. Where something is asked of a place axis, all have one; with `queue` the first axis of all is one.
    Raises InfeasiblePlan or ConfigError, with all grids, where none has a plan.
    """
    shapes, last = _in_order(ranks, machine, asks_for_place(options), queue)
    share = replace(options, time_limit=options.time_limit / len(shapes))
    best: AnyPlanned | None = None
    tried: list[Tried] = []
    kinds: set[bool] = set()
    for shape in (*shapes, *last):
        if shape in last and (best is not None or kinds != {True}):
            break
        shortest = math.inf if best is None else best.plan.predicted.seconds
        if len(shape.sizes) == AXES and (why := _left_out(shortest, tried)):
            tried.append(Tried(str(shape), refused=why))
            continue
        try:
            compiled = compile(shape, share, shortest)
        except NotShorter as error:
            assert best is not None, "nothing is shorter than nothing"
            why = f"passed over: {error.seconds:.3g} s at least, beside {best.plan.grid}"
            tried.append(Tried(str(shape), refused=why, least=error.seconds))
            continue
        except (InfeasiblePlan, ConfigError) as error:
            kinds.add(isinstance(error, InfeasiblePlan))
            tried.append(Tried(str(shape), refused=_short(error)))
            continue
        predicted = compiled.plan.predicted
        gap = (compiled.plan.placement or compiled.plan.solver).gap
        tried.append(Tried(str(shape), predicted.seconds, predicted.bytes, gap))
        if predicted.seconds < shortest * (1 - _EQUAL):
            best = compiled
    if best is None:
        raise _none(ranks, tried, memory=kinds == {True})
    return best, tuple(tried)


def _in_order(
    ranks: int, machine: Machine, asked: bool, queue: bool
) -> tuple[tuple[GridShape, ...], tuple[GridShape, ...]]:
    """The grids that are tried, and those that follow only where the memory limit leaves no other; `asked` for a place axis."""
    placed = () if queue else with_place_axis(ranks, machine)
    if placed and asked:
        return placed, ()
    shapes = candidates(ranks, machine) or (GridShape.parse("1"),)
    if queue:
        return tuple(shape.with_queue() for shape in shapes), ()
    waiting = all(machine.stalls) and ranks > 1
    shapes += tuple(shape.with_queue() for shape in shapes[: MOST_QUEUED * waiting])
    if ranks > machine.ranks_per_node:
        return (*placed[:1], *shapes, *placed[1:]), ()
    return shapes, placed


def _left_out(shortest: float, tried: list[Tried]) -> str:
    """Why grids of more axes are left out: of those that were tried, none without a place axis is near the shortest step."""
    known = [(one.seconds or one.least, one.grid) for one in tried if not GridShape.parse(one.grid).place]
    least, grid = min((each for each in known if each[0]), default=(0.0, ""))
    return f"left out: {least:.3g} s at least on {grid}" if least > FAR * shortest else ""


def _short(error: AutoparError) -> str:
    return str(error).splitlines()[0]


def _none(ranks: int, tried: list[Tried], *, memory: bool) -> AutoparError:
    kind = InfeasiblePlan if memory else ConfigError
    lines = [f"{trial.grid}: {trial.refused}" for trial in tried]
    fix = "raise --memory or use more ranks" if memory else "mend what the lines say, or name a grid"
    return kind(refusal(f"grid auto of {ranks} ranks", "no grid has a plan", "one grid can be planned", lines, fix))
