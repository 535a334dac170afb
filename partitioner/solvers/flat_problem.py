"""A large problem in a few flat arrays, the form that the compiled kernels (`trws_kernels`) work on.

    strategies of node i   start[i] ... start[i + 1] in `cost` and `memory`
    times of node i        first[i] ... last[i] in `room`; only times that can bind are kept
    edge e                 joins a[e] < b[e]; its table lies at[e] onwards in `forth` (row per strategy of a) and in `back`
                           (row per strategy of b)
    edges of node i        near_at[i] ... near_at[i + 1] in `near_edge`, in order of the other end
    messages               to_a[e], to_b[e]: where the message over e to its end a, b begins

Instead of `inf`, which must not meet its negative, the finite `huge` stands for what is forbidden.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from autopar.partitioner.problem import ROUNDING, Array, Ints, Problem, deciding_times, merge


class Flat(NamedTuple):
    """The arrays (see the module), the length of the messages, and the cost that stands for what is forbidden.

    A named tuple, because compiled functions take those and no dataclasses.
    """

    start: Ints
    cost: Array
    memory: Array
    first: Ints
    last: Ints
    room: Array
    a: Ints
    b: Ints
    at: Ints
    forth: Array
    back: Array
    near_at: Ints
    near_edge: Ints
    to_a: Ints
    to_b: Ints
    messages: int
    huge: float


def flatten(problem: Problem) -> Flat:
    """The arrays of a checked problem."""
    problem = merge(problem)
    sizes = np.array([node.costs.size for node in problem.nodes], dtype=np.int64)
    start = _offsets(sizes)
    cost = np.concatenate([node.costs for node in problem.nodes]).astype(float)
    memory = np.concatenate([node.memory for node in problem.nodes]).astype(float)
    tables = [np.ascontiguousarray(edge.costs, dtype=float) for edge in problem.edges]
    none = np.zeros(0)
    forth = np.concatenate([none, *(table.ravel() for table in tables)])
    back = np.concatenate([none, *(np.ascontiguousarray(table.T).ravel() for table in tables)])
    a = np.array([edge.a for edge in problem.edges], dtype=np.int64)
    b = np.array([edge.b for edge in problem.edges], dtype=np.int64)
    huge = _huge(cost, forth)
    for costs in (cost, forth, back):
        costs[np.isinf(costs)] = huge
    near_at, near_edge = _incidence(len(sizes), a, b)
    first, last, room = times(problem, start, memory)
    slots = _offsets(np.stack([sizes[a], sizes[b]], axis=1).ravel())
    return Flat(
        start,
        cost,
        memory,
        first,
        last,
        room,
        a,
        b,
        _offsets(sizes[a] * sizes[b])[:-1],
        forth,
        back,
        near_at,
        near_edge,
        slots[:-1:2].copy(),
        slots[1::2].copy(),
        int(slots[-1]),
        huge,
    )


def _offsets(sizes: Ints) -> Ints:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def _huge(*costs: Array) -> float:
    """Above every sum of finite costs that can occur, and small enough that adding it to them loses little."""
    return 1e3 * (1.0 + sum(float(np.abs(part[np.isfinite(part)]).sum()) for part in costs))


def _incidence(nodes: int, a: Ints, b: Ints) -> tuple[Ints, Ints]:
    """For each node its edges, in order of the other end."""
    ends, others = np.concatenate([a, b]), np.concatenate([b, a])
    edges = np.tile(np.arange(a.size, dtype=np.int64), 2)
    return _offsets(np.bincount(ends, minlength=nodes).astype(np.int64)), edges[np.lexsort((others, ends))]


def times(problem: Problem, start: Ints, memory: Array) -> tuple[Ints, Ints, Array]:
    """First and last time (among those that can bind) of each node, and the room of these times."""
    first, last, count = deciding_times(problem)
    used = first < last
    if problem.limit is None or np.isinf(problem.limit) or not used.any():
        nothing = np.zeros(len(problem.nodes), dtype=np.int64)
        return nothing, nothing.copy(), np.zeros(0)
    most = np.maximum.reduceat(memory, start[:-1])
    change = np.zeros(count + 1)
    np.add.at(change, first[used], most[used])
    np.subtract.at(change, last[used], most[used])
    binds = np.cumsum(change)[:-1] > problem.limit
    number = _offsets(binds.astype(np.int64))
    first, last = np.where(used, number[first], 0), np.where(used, number[last], 0)
    return first, last, np.full(int(binds.sum()), problem.limit * (1 + ROUNDING))
