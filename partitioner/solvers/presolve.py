"""Reductions that keep an optimum: they make a problem smaller, and take a choice for the small one back to the large one.

Each rule and the function that applies it, until none applies:

    a strategy without an allowed partner over some edge, or that alone exceeds the memory left, goes      drop_forbidden
    a time at which the dearest strategies together meet the limit goes; so does a node's least memory,
        which is taken off the limit of its times                                                          settle_memory
    strategy u goes if some v needs no more memory and costs no more whatever the neighbours choose:
        c(u) - c(v) + sum over edges of min_b (E[u, b] - E[v, b]) >= 0     (Goldstein 1994)                drop_dominated
    an edge E[a, b] = f(a) + g(b) goes into its nodes' costs                                               drop_separable
    a node that is free (its memory cannot matter) with at most two neighbours goes into
        E[a, b] += min_s (c(s) + E[s, a] + E[s, b])          (min-plus products, Bertele and Brioschi 1972)  eliminate

A node is free when it is live at no time that can bind, or when all its strategies hold the same.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopar.partitioner.problem import ROUNDING, Array, Edge, Problem, deciding_times, merge
from autopar.partitioner.solvers.elimination_order import cheapest_first

Scope = tuple[int, ...]
Indices = NDArray[np.intp]
_HUGE = 1e300
"""Stands for infinity in sums that may meet its negative."""
_BLOCK = 32
"""How many columns the test for dominance looks at before it forgets the pairs of strategies that failed."""


class Wiped(Exception):
    """A node is left without a strategy, or a time with less than no memory: no choice exists."""


@dataclass(frozen=True, slots=True, eq=False)
class Elimination:
    """An eliminated node: `best` gives its strategy for the strategies of `scope`, which are listed in `kept`."""

    node: int
    scope: Scope
    kept: tuple[Indices, ...]
    best: Indices


@dataclass(slots=True, eq=False)
class Factors:
    """A problem while it is being reduced, by node number of the original problem; it changes in place.

    `kept[i]` are the strategies that node i still has (ascending), `tables` the costs of two or more nodes, `near[i]` the
    tables that involve node i, `room[k]` what the limit leaves at time k, and `spans[i]` the times at which node i is live.
    """

    kept: dict[int, Indices]
    costs: dict[int, Array]
    memory: dict[int, Array]
    spans: dict[int, tuple[int, int]]
    room: Array
    tables: dict[Scope, Array]
    near: dict[int, set[Scope]]
    constant: float
    trail: list[Elimination]


@dataclass(frozen=True, slots=True, eq=False)
class Core:
    """What is left, numbered afresh: node i was node `nodes[i]`. At time k, sum of memory[i][s_i] over the i with
    spans[i][0] <= k < spans[i][1] must be at most room[k]. All node costs are finite, pairs may be forbidden, a < b."""

    nodes: tuple[int, ...]
    costs: tuple[Array, ...]
    memory: tuple[Array, ...]
    spans: tuple[tuple[int, int], ...]
    room: Array
    edges: tuple[Edge, ...]
    constant: float


def factors(problem: Problem) -> Factors:
    """The working form of a checked problem."""
    problem = merge(problem)
    spans, times = dict.fromkeys(range(len(problem.nodes)), (0, 0)), 0
    if problem.limit is not None and not math.isinf(problem.limit):
        first, last, times = deciding_times(problem)
        spans = dict(enumerate(zip(first.tolist(), last.tolist(), strict=True)))
    near: dict[int, set[Scope]] = {i: set() for i in spans}
    tables: dict[Scope, Array] = {(edge.a, edge.b): edge.costs for edge in problem.edges}
    for scope in tables:
        for i in scope:
            near[i].add(scope)
    return Factors(
        kept={i: np.arange(node.costs.size) for i, node in enumerate(problem.nodes)},
        costs={i: np.asarray(node.costs, dtype=float) for i, node in enumerate(problem.nodes)},
        memory={i: np.asarray(node.memory, dtype=float) for i, node in enumerate(problem.nodes)},
        spans=spans,
        room=np.full(times, (problem.limit or 0.0) * (1 + ROUNDING)),
        tables=tables,
        near=near,
        constant=0.0,
        trail=[],
    )


def reduce(f: Factors, settle: bool = True, widest: float = math.inf) -> None:
    """Apply every rule until none applies. Raises Wiped.

    Without `settle`, no time is forgotten; nodes with more than `widest` strategies are not tested for dominance, whose time
    grows with the cube of their number.
    """
    size = None
    while size != (size := _size(f)):
        drop_forbidden(f)
        if settle:
            settle_memory(f)
        drop_separable(f)
        _eliminate_small(f)
        drop_forbidden(f)  # an elimination may have forbidden some
        drop_dominated(f, widest)


def _size(f: Factors) -> tuple[int, ...]:
    return len(f.costs), len(f.tables), len(f.room), sum(kept.size for kept in f.kept.values())


def restrict(f: Factors, node: int, keep: NDArray[np.bool_]) -> None:
    """Leave a node only the strategies that `keep` marks. Raises Wiped where it marks none."""
    if not keep.any():
        raise Wiped
    f.kept[node], f.costs[node], f.memory[node] = f.kept[node][keep], f.costs[node][keep], f.memory[node][keep]
    for scope in f.near[node]:
        f.tables[scope] = np.compress(keep, f.tables[scope], axis=scope.index(node))


def seen_from(f: Factors, node: int, scope: Scope) -> Array:
    """The table of `scope` as a matrix, one row per strategy of `node`."""
    return np.moveaxis(f.tables[scope], scope.index(node), 0).reshape(f.costs[node].size, -1)


def drop_forbidden(f: Factors) -> None:
    """Arc consistency, and the memory that one strategy needs alone. Raises Wiped."""
    todo = sorted(f.costs)
    while todo:
        node = todo.pop()
        keep = np.isfinite(f.costs[node])
        first, last = f.spans[node]
        if first < last:
            keep &= f.memory[node] <= f.room[first:last].min()
        for scope in f.near[node]:
            keep &= np.isfinite(seen_from(f, node, scope)).any(axis=1)
        if not keep.all():
            restrict(f, node, keep)
            todo = sorted({*todo, *neighbours(f, node)})


def neighbours(f: Factors, node: int) -> set[int]:
    """The nodes that share a table with `node`."""
    return {i for scope in f.near[node] for i in scope} - {node}


def settle_memory(f: Factors) -> None:
    """Take each node's least memory off the room of its times, then forget the times that cannot bind. Raises Wiped."""
    for node, (first, last) in f.spans.items():
        least = f.memory[node].min()
        f.room[first:last] -= least
        f.memory[node] = f.memory[node] - least
    if (f.room < 0).any():
        raise Wiped
    most = profile(list(f.spans.values()), [memory.max() for memory in f.memory.values()], f.room.size)
    binds = most > f.room
    number = np.concatenate([[0], np.cumsum(binds)])
    f.room = f.room[binds]
    for node, (first, last) in f.spans.items():
        f.spans[node] = (int(number[first]), int(number[last])) if f.memory[node].any() else (0, 0)


def profile(spans: Sequence[tuple[int, int]], held: Sequence[float], times: int) -> Array:
    """The sum of what is held at each time, by nodes that hold `held[i]` during `spans[i]`."""
    change = np.zeros(times + 1)
    if times:
        ends, amounts = np.array(spans), np.array(held)
        np.add.at(change, ends[:, 0], amounts)
        np.subtract.at(change, ends[:, 1], amounts)
    return np.cumsum(change)[:-1]


def drop_separable(f: Factors) -> None:
    """Move an edge that is the sum of a term per node into the nodes' costs."""
    for scope in [scope for scope in f.tables if len(scope) == 2]:
        table, (a, b) = f.tables[scope], scope
        if not np.isfinite(table).all():
            continue
        row, column = table[:, 0], table[0] - table[0, 0]
        if np.abs(table - row[:, None] - column).max() <= 1e-14 * np.abs(table).max():
            f.costs[a], f.costs[b] = f.costs[a] + row, f.costs[b] + column
            _remove_table(f, scope)


def _remove_table(f: Factors, scope: Scope) -> None:
    del f.tables[scope]
    for i in scope:
        f.near[i].discard(scope)


def drop_dominated(f: Factors, widest: float) -> None:
    """Drop strategies that another strategy of the same node beats whatever the rest chooses."""
    todo = sorted(f.costs)
    budget = 4 * len(todo)
    while todo and budget:
        node, budget = todo.pop(), budget - 1
        if f.costs[node].size > widest:
            continue
        keep = _undominated(f, node)
        if not keep.all():
            restrict(f, node, keep)
            todo = sorted({*todo, *neighbours(f, node)})


def _undominated(f: Factors, node: int) -> NDArray[np.bool_]:
    costs, memory = f.costs[node], f.memory[node]
    keep = np.ones(costs.size, dtype=bool)
    if costs.size == 1:
        return keep
    tables = [seen_from(f, node, scope) for scope in sorted(f.near[node])]
    screens = [
        _least_difference(few[:, None], few) for few in (table[:, :: -(-table.shape[1] // 6)] for table in tables)
    ]
    better = costs[:, None] - costs + sum(screens) >= 0
    if not free(f, node):
        better &= memory[:, None] >= memory
    np.fill_diagonal(better, False)
    worse, dominant = np.nonzero(better)
    least = [screen[worse, dominant] for screen in screens]
    for t, table in enumerate(tables):
        for first in range(0, table.shape[1], _BLOCK):
            block = table[:, first : first + _BLOCK]
            least[t] = np.minimum(least[t], _least_difference(block[worse], block[dominant]))
            still = costs[worse] - costs[dominant] + sum(least) >= 0
            worse, dominant, least = worse[still], dominant[still], [part[still] for part in least]
    # One after another, the last first: of equals the first stays, and rounding can never remove them all.
    for u in np.unique(worse)[::-1]:
        keep[u] = not keep[dominant[worse == u]].any()
    return keep


def _least_difference(costs: Array, others: Array) -> Array:
    """The least of costs - others over the last dim, leaving out what both forbid."""
    with np.errstate(invalid="ignore"):
        difference = costs - others
    least: Array = np.fmin.reduce(difference, axis=-1, initial=_HUGE)
    return least


def free(f: Factors, node: int) -> bool:
    """Whether the node's memory cannot matter."""
    return f.spans[node][0] == f.spans[node][1]


def _eliminate_small(f: Factors) -> None:
    todo, listed = sorted(f.costs), set(f.costs)  # a heap, and what is on it
    while todo:
        node = heapq.heappop(todo)
        listed.remove(node)
        around = neighbours(f, node)
        if len(around) <= 2 and free(f, node):
            eliminate(f, node)
            for other in around - listed:
                heapq.heappush(todo, other)
            listed |= around


def eliminate(f: Factors, node: int) -> None:
    """Replace a free node by the least cost that it can have for each combination of its neighbours' strategies."""
    scope = tuple(sorted(neighbours(f, node)))
    shape = tuple(f.costs[i].size for i in scope)
    terms = [f.costs[node].reshape(-1, *(1 for _ in scope))]
    for key in sorted(f.near[node]):
        sizes = [f.costs[i].size if i in key else 1 for i in scope]
        terms.append(np.moveaxis(f.tables[key], key.index(node), 0).reshape(-1, *sizes))
    least, best = _least(terms, shape)
    f.trail.append(Elimination(node, scope, tuple(f.kept[i] for i in scope), f.kept[node][best]))
    for key in list(f.near[node]):
        _remove_table(f, key)
    for field in (f.kept, f.costs, f.memory, f.spans, f.near):
        del field[node]
    _add_table(f, scope, least)


def _least(terms: list[Array], shape: tuple[int, ...]) -> tuple[Array, Indices]:
    """The minimum over the first dim of the sum of the terms, and where it is; in slices, to hold one slice only."""
    terms = sorted(terms, key=lambda term: term.size)
    least, best = np.full(shape, np.inf), np.zeros(shape, dtype=np.intp if math.prod(shape) < 1e6 else np.int16)
    for s in range(terms[0].shape[0]):
        total = sum((term[s] for term in terms[1:]), terms[0][s])
        better = total < least
        np.copyto(least, total, where=better)
        np.copyto(best, s, where=better)
    return least, best


def _add_table(f: Factors, scope: Scope, table: Array) -> None:
    if not scope:
        if not np.isfinite(table):
            raise Wiped
        f.constant += float(table)
    elif len(scope) == 1:
        f.costs[scope[0]] = f.costs[scope[0]] + table
    elif scope in f.tables:
        f.tables[scope] = f.tables[scope] + table
    else:
        f.tables[scope] = table
        for i in scope:
            f.near[i].add(scope)


def eliminate_all(f: Factors, work: float, entries: float) -> bool:
    """Eliminate every node, if that takes at most `work` additions and tables of at most `entries`; say whether it did.

    The order is greedy: the node with the smallest table first (minimum weight), which is found before any is computed.
    """
    sizes = {node: costs.size for node, costs in f.costs.items()}
    around = {node: neighbours(f, node) for node in f.costs}
    order: list[int] = []
    if not all(free(f, node) for node in f.costs):
        return False
    for weight, node in cheapest_first(around, lambda near: math.prod(sizes[i] for i in near)):
        work -= weight * sizes[node]
        if weight > entries or work < 0:
            return False
        order.append(node)
    for node in order:
        eliminate(f, node)
    return True


def least_degree(f: Factors) -> list[int]:
    """The nodes in an order of elimination: one with the fewest neighbours left first."""
    around = {node: neighbours(f, node) for node in sorted(f.costs)}
    return [node for _, node in cheapest_first(around, len)]


def core(f: Factors) -> Core:
    """The remaining nodes, which must have no tables of more than two nodes, as a problem of its own.

    A node comes after the neighbours that are left when it would be eliminated: in a tree, after its parent alone.
    """
    nodes = tuple(reversed(least_degree(f)))
    number = {node: i for i, node in enumerate(nodes)}
    assert all(len(scope) == 2 for scope in f.tables)
    edges = {}
    for (a, b), table in f.tables.items():
        i, j, costs = (number[a], number[b], table) if number[a] < number[b] else (number[b], number[a], table.T)
        edges[i, j] = Edge(i, j, costs)
    return Core(
        nodes=nodes,
        costs=tuple(f.costs[node] for node in nodes),
        memory=tuple(f.memory[node] for node in nodes),
        spans=tuple(f.spans[node] for node in nodes),
        room=f.room.copy(),
        edges=tuple(edges[pair] for pair in sorted(edges)),
        constant=f.constant,
    )


def restore(f: Factors, choice: Mapping[int, int]) -> tuple[int, ...]:
    """The choice of the original problem for a choice (node -> position in `kept`) of the remaining nodes."""
    full = {node: int(f.kept[node][s]) for node, s in choice.items()}
    for step in reversed(f.trail):
        at = tuple(int(np.searchsorted(kept, full[i])) for i, kept in zip(step.scope, step.kept, strict=True))
        full[step.node] = int(step.best[at])
    return tuple(full[node] for node in sorted(full))
