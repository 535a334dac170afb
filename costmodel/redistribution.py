"""The redistribution planner: from two layouts of one tensor to the cheapest chain of primitives between them.

It is asked for a price while a plan is sought and for the steps when the program is written, so what was priced is what
runs. A step changes the layout on one axis through one cell of the conversion table; `copy(all_sum)` and `keep(once)`
are two steps. Every step turns one description of the same tensor (and of its gradient) into another, so any chain is
correct and the cheapest is a shortest path. Per axis, a chain may pass through the source's layout, the target's,
Replicate and Copied, and where prices are measured, Partial (a machine may sum faster than it gathers; by formula it
never pays). A state is one of these per axis, and an edge costs seconds forward plus adjoint, with the bytes that the
*other* axes leave.

Where two axes cut the same factor of a dim, the outer axis cuts first. Only the inner axis can then be changed by local
means: a step that splits, gathers or moves an outer axis's part of that factor is legal only after the inner cut has
been undone. Cuts of factors that lie apart commute, so they are free of this rule. (The index sets are checked rank by
rank in the tests.) For tensors without gradient, Copied is read as Replicate and adjoints cost nothing.

    _Space            all states of some alphabets of layouts, and the cost of every legal edge
    plan_conversion   Dijkstra on the space of one pair; ties go to fewer steps, then to the first path in order
    conversion_matrix the same least costs for many pairs at once in numpy
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopar.costmodel.collectives import reaches
from autopar.costmodel.communication import Transfer, price
from autopar.costmodel.local_shapes import compatible, local_shape, same_factor
from autopar.ir.conversions import primitive_of
from autopar.ir.grid import GridShape
from autopar.ir.layout import Copied, Layout, Layouts, Partial, Replicate
from autopar.ir.machine import Machine

Floats = NDArray[np.float64]
Index = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Conversion(Transfer):
    """One step of a chain: the layouts of all axes before and after, which differ on `axis` only."""

    before: Layouts
    after: Layouts


@dataclass(frozen=True, slots=True)
class _Space:
    """The states that pick one layout of `alphabets[a]` on each axis a, of which any chain may use the first `ways`; all edges.

    edges[a][(x, y, *rest)] is the cost of changing axis a from its x-th to its y-th layout while the other axes, in
    order, stay at `rest`; infinite where that is illegal.
    """

    alphabets: tuple[tuple[Layout, ...], ...]
    ways: int
    edges: tuple[Floats, ...]
    nbytes: Floats
    legal: NDArray[np.bool_]


def plain(layouts: Layouts, differentiable: bool) -> Layouts:
    """The layouts as the planner reads them: without a gradient, Copied is Replicate."""
    if differentiable:
        return layouts
    assert not any(isinstance(layout, Partial) for layout in layouts), "a tensor without gradient is never Partial"
    return tuple(Replicate() if isinstance(layout, Copied) else layout for layout in layouts)


@functools.lru_cache(maxsize=200_000)
def plan_conversion(
    shape: tuple[int, ...],
    itemsize: int,
    differentiable: bool,
    source: Layouts,
    target: Layouts,
    grid: GridShape,
    machine: Machine,
    runs: int = 1,
) -> tuple[Conversion, ...]:
    """The cheapest chain of steps from `source` to `target` for a tensor of this shape; empty where they are the same.

    Forward runs `runs` times in a step and the adjoint once: so the chains are compared. A step's price is that of one run.

    Both must be `compatible` with the shape. The chain begins and ends with the layouts as `plain` reads them.
    """
    source, target = plain(source, differentiable), plain(target, differentiable)
    assert compatible(shape, source, grid), f"no tensor of shape {shape} lies as {source} on {grid}"
    assert compatible(shape, target, grid), f"no tensor of shape {shape} lies as {target} on {grid}"
    if source == target:
        return ()
    alphabets = _alphabets([source, target], differentiable, bool(machine.fits))
    space = _space(shape, itemsize, differentiable, alphabets, grid, machine, runs)
    path = _shortest(space, _index(space, source), _index(space, target))
    layouts = [tuple(alphabet[i] for alphabet, i in zip(space.alphabets, state, strict=True)) for state in path]
    sizes = [float(space.nbytes[state]) for state in path]
    return tuple(
        _step(layouts[i], layouts[i + 1], sizes[i], sizes[i + 1], differentiable, grid, machine)
        for i in range(len(path) - 1)
    )


def conversion_matrix(
    shape: tuple[int, ...],
    itemsize: int,
    differentiable: bool,
    sources: Sequence[Layouts],
    targets: Sequence[Layouts],
    grid: GridShape,
    machine: Machine,
    runs: int = 1,
) -> Floats:
    """Seconds (forward, `runs` times, plus adjoint) of `plan_conversion` for every pair, ``[source, target]``.

    Where two axes cut one dim, a chain may go back and forth between the axes and be a little cheaper than told here.
    Infinite where one of the two is not `compatible` with the shape.
    """
    first = [plain(layouts, differentiable) for layouts in sources]
    last = [plain(layouts, differentiable) for layouts in targets]
    if not first or not last:
        return np.zeros((len(first), len(last)))
    rows, from_row = _distinct(first)
    columns, from_column = _distinct(last)
    costs = _matrix(shape, itemsize, differentiable, tuple(rows), tuple(columns), grid, machine, runs)
    return costs[np.ix_(from_row, from_column)]


@functools.lru_cache(maxsize=4096)
def _matrix(
    shape: tuple[int, ...],
    itemsize: int,
    differentiable: bool,
    rows: tuple[Layouts, ...],
    columns: tuple[Layouts, ...],
    grid: GridShape,
    machine: Machine,
    runs: int,
) -> Floats:
    alphabets = _alphabets([*rows, *columns], differentiable, bool(machine.fits))
    space = _space(shape, itemsize, differentiable, alphabets, grid, machine, runs)
    return _least(space, rows, columns)


def _distinct(layouts: list[Layouts]) -> tuple[list[Layouts], list[int]]:
    unique = list(dict.fromkeys(layouts))
    place = {row: i for i, row in enumerate(unique)}
    return unique, [place[row] for row in layouts]


def _alphabets(layouts: Sequence[Layouts], differentiable: bool, measured: bool) -> tuple[tuple[Layout, ...], ...]:
    """Per axis what any chain may pass through, see `_ways`, and every layout that occurs."""
    return tuple(
        tuple(dict.fromkeys((*_ways(differentiable, measured), *column))) for column in zip(*layouts, strict=True)
    )


def _ways(differentiable: bool, measured: bool) -> tuple[Layout, ...]:
    if not differentiable:
        return (Replicate(),)
    return (Replicate(), Copied(), Partial()) if measured else (Replicate(), Copied())


def _index(space: _Space, layouts: Layouts) -> Index:
    return tuple(alphabet.index(layout) for alphabet, layout in zip(space.alphabets, layouts, strict=True))


@functools.lru_cache(maxsize=4096)
def _space(
    shape: tuple[int, ...],
    itemsize: int,
    differentiable: bool,
    alphabets: tuple[tuple[Layout, ...], ...],
    grid: GridShape,
    machine: Machine,
    runs: int,
) -> _Space:
    counts = tuple(len(alphabet) for alphabet in alphabets)
    nbytes = np.full(counts, float(itemsize))
    legal = np.zeros(counts, dtype=np.bool_)
    movable = np.zeros((len(counts), *counts), dtype=np.bool_)
    for state in itertools.product(*(range(count) for count in counts)):
        layouts = tuple(alphabet[i] for alphabet, i in zip(alphabets, state, strict=True))
        legal[state] = compatible(shape, layouts, grid)
        if legal[state]:
            nbytes[state] *= float(np.prod(local_shape(shape, layouts, grid), dtype=np.float64))
        for axis, layout in enumerate(layouts):
            inner = layouts[axis + 1 :]
            movable[(axis, *state)] = legal[state] and not any(same_factor(layout, other) for other in inner)
    edges = tuple(
        _edges(axis, alphabets[axis], nbytes, movable[axis], differentiable, grid, machine, runs)
        for axis in range(len(counts))
    )
    ways = len(_ways(differentiable, bool(machine.fits)))
    return _Space(alphabets, ways, edges, nbytes, legal)


def _edges(
    axis: int,
    alphabet: tuple[Layout, ...],
    nbytes: Floats,
    movable: NDArray[np.bool_],
    differentiable: bool,
    grid: GridShape,
    machine: Machine,
    runs: int,
) -> Floats:
    """Costs of all steps over one axis, one evaluation per primitive."""
    held, free = np.moveaxis(nbytes, axis, 0), np.moveaxis(movable, axis, 0)
    costs = np.full((len(alphabet), *held.shape), np.inf)
    cells: dict[str, list[tuple[int, int]]] = {}
    for x, before in enumerate(alphabet):
        for y, after in enumerate(alphabet):
            primitive = primitive_of(before, after)
            if primitive is not None:
                cells.setdefault(primitive, []).append((x, y))
    reach = reaches(machine, grid)[axis]
    for primitive, pairs in cells.items():
        xs, ys = (list(column) for column in zip(*pairs, strict=True))
        _, _, forward, adjoint = price(primitive, machine, reach, held[xs], held[ys])
        seconds = runs * forward + adjoint if differentiable else runs * forward
        costs[xs, ys] = np.where(free[xs] & free[ys], seconds, np.inf)
    return costs


def _shortest(space: _Space, source: Index, target: Index) -> list[Index]:
    """The states of the cheapest path; among equals the one with fewest steps, then the first in order."""
    queue: list[tuple[float, int, tuple[Index, ...]]] = [(0.0, 0, (source,))]
    done: set[Index] = set()
    while queue:
        seconds, count, path = heapq.heappop(queue)
        state = path[-1]
        if state == target:
            return list(path)
        if state in done:
            continue
        done.add(state)
        for axis, edges in enumerate(space.edges):
            rest = state[:axis] + state[axis + 1 :]
            for y in range(len(space.alphabets[axis])):
                cost = float(edges[(state[axis], y, *rest)])
                after = (*state[:axis], y, *state[axis + 1 :])
                if cost < np.inf and after not in done:
                    heapq.heappush(queue, (seconds + cost, count + 1, (*path, after)))
    raise AssertionError("every layout can be gathered to Replicate and cut again")


def _step(
    before: Layouts,
    after: Layouts,
    bytes_before: float,
    bytes_after: float,
    differentiable: bool,
    grid: GridShape,
    machine: Machine,
) -> Conversion:
    axis = next(i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new)
    primitive = primitive_of(before[axis], after[axis])
    assert primitive is not None
    sent, returned, forward, adjoint = price(
        primitive, machine, reaches(machine, grid)[axis], bytes_before, bytes_after
    )
    if not differentiable:
        returned = adjoint = 0.0
    return Conversion(primitive, axis, sent, returned, forward, adjoint, before, after)


def _least(space: _Space, rows: Sequence[Layouts], columns: Sequence[Layouts]) -> Floats:
    """Least costs ``[row, column]``: one axis after another in the best order, or relaxation where no order is legal."""
    starts = np.array([_index(space, layouts) for layouts in rows])
    ends = np.array([_index(space, layouts) for layouts in columns])
    axes = range(starts.shape[1])
    closed = [_closed(space.edges[axis], space.ways) for axis in axes]
    costs = np.full((len(rows), len(columns)), np.inf)
    for order in itertools.permutations(axes):
        total = np.zeros_like(costs)
        done: set[int] = set()
        for axis in order:
            rest = [ends[None, :, i] if i in done else starts[:, None, i] for i in axes if i != axis]
            total += closed[axis][(starts[:, None, axis], ends[None, :, axis], *rest)]
            done.add(axis)
        np.minimum(costs, total, out=costs)
    legal = np.logical_and.outer(*(np.array([space.legal[tuple(state)] for state in side]) for side in (starts, ends)))
    row, column = np.nonzero(np.isinf(costs) & legal)
    if len(row):
        costs[row, column] = _relaxed(space, starts[row], ends[column])
    costs[~legal] = np.inf
    return costs


def _closed(edges: Floats, ways: int) -> Floats:
    """Least costs of one axis alone, ``[x, y, *rest]``: directly, or by way of the first `ways` layouts."""
    direct = edges.copy()
    same = np.arange(len(edges))
    direct[same, same] = 0.0
    among = direct[:ways, :ways]
    for k in range(ways if ways > 2 else 0):
        among = np.minimum(among, among[:, [k]] + among[[k]])
    to_way = np.minimum.reduce([direct[:, [w]] + among[[w]] for w in range(ways)])
    closed = np.minimum.reduce([direct, *(to_way[:, [w]] + direct[[w]] for w in range(ways))])
    return np.asarray(closed)


_CHUNK = 512  # pairs relaxed at once: their edges fit a cache


def _relaxed(space: _Space, starts: NDArray[np.int_], ends: NDArray[np.int_]) -> Floats:
    """Least costs per pair of states. Each pair may use few layouts per axis: its own two, and what any chain may."""
    pieces = range(0, len(starts), _CHUNK)
    return np.concatenate([_relax(space, starts[i : i + _CHUNK].T, ends[i : i + _CHUNK].T) for i in pieces])


def _relax(space: _Space, starts: NDArray[np.int_], ends: NDArray[np.int_]) -> Floats:
    """`_relaxed` for states ``[axis, pair]``. Pairs are the last dim of everything, so that loops over them are long."""
    axes, pairs = starts.shape
    ways = [np.full(pairs, i) for i in range(space.ways)]  # they come first in every alphabet
    allowed = [np.stack([starts[axis], ends[axis], *ways]) for axis in range(axes)]
    width = len(allowed[0])
    edges = [_gathered(space.edges[axis], allowed, axis) for axis in range(axes)]
    best = np.full((*([width] * axes), pairs), np.inf)
    best[(0,) * axes] = 0.0  # every axis at its first choice, the source
    changed = True
    while changed:
        before = best.copy()
        for axis in range(axes):
            front = np.moveaxis(best, axis, 0)
            reached = front.copy()
            for (x, y), costs in edges[axis].items():
                np.minimum(reached[y], front[x] + costs, out=reached[y])
            front[...] = reached
        changed = not np.array_equal(before, best)
    return np.asarray(best[(1,) * axes])  # every axis at its second choice


def _gathered(edges: Floats, allowed: list[NDArray[np.int_]], axis: int) -> dict[tuple[int, int], Floats]:
    """The edges of one axis between each pair's choices x and y: ``[*rest, pair]``, free where both are one layout.

    Edges that no pair can take are left out.
    """
    rest = [indices for i, indices in enumerate(allowed) if i != axis]
    spread = [
        indices.reshape(*([1] * i), len(indices), *([1] * (len(rest) - 1 - i)), -1) for i, indices in enumerate(rest)
    ]
    between = {}
    for x, y in itertools.permutations(range(len(allowed[axis])), 2):
        before, after = allowed[axis][x], allowed[axis][y]
        costs = np.where(before == after, 0.0, edges[(before, after, *spread)])
        if np.isfinite(costs).any():
            between[x, y] = costs
    return between
