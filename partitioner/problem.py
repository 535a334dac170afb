"""The abstract problem: choose one strategy per node, at the least cost, within a memory limit.

    minimise  sum_i costs_i[s_i] + sum_(a,b) costs_ab[s_a, s_b]
    such that, at every time t,  sum over nodes i with start_i <= t < stop_i of memory_i[s_i]  <=  limit

A cost of `inf` forbids a strategy or a pair of strategies. Memory is never negative, so that of two times the one whose live
nodes contain the other's decides. The form is that of the ASPLOS/EuroSys 2025 contest on intra-operator parallelism
(github.com/google/iopddl), and of Alpa (arXiv 2201.12023, section 4.2) with the memory added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopar.errors import AutoparError, InfeasiblePlan, PlanError, refusal

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Progress = Callable[[float, float], None]  # told the least cost known (`inf` for none) and the bound

ROUNDING = 1e-12
"""Sums of memory that differ by this fraction of the limit are equal: they differ in the order of their terms only."""


_MOST = 1e300
"""Sums above are refused: solvers add and multiply them further."""


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """One node: `costs[s]` and `memory[s]` of its strategies s, the memory held in the time steps start <= t < stop."""

    name: str
    costs: Array
    memory: Array
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Edge:
    """A cost for each pair of strategies of the nodes `a` and `b`: `costs[s_a, s_b]`, `inf` where the pair is forbidden."""

    a: int
    b: int
    costs: Array


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Nodes, edges between them (by index into `nodes`), and the memory limit, None for no limit."""

    nodes: tuple[Choices, ...]
    edges: tuple[Edge, ...] = ()
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Solution:
    """One strategy per node, its cost and peak memory, a proven lower bound on every cost, and how it was found."""

    choice: tuple[int, ...]
    cost: float
    bound: float
    method: str
    seconds: float
    peak: float

    @property
    def gap(self) -> float:
        """How far the cost may be above the optimum, as a fraction of the cost; 0 when proven optimal."""
        return relative_gap(self.cost, self.bound)


class NoChoice(InfeasiblePlan):
    """No choice meets the limit. `least_peak` is the smallest limit that some choice meets.

    `least_peak` is None where no limit would help (the forbidden pairs leave no choice at all), and an upper estimate where
    `proven` is false.
    """

    def __init__(self, message: str, limit: float | None, least_peak: float | None, proven: bool = True) -> None:
        super().__init__(message)
        self.limit, self.least_peak, self.proven = limit, least_peak, proven


class NotShorter(AutoparError):
    """No plan of what is asked has a step as short as one that is known; `seconds` is what none is shorter than."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no step is shorter than {seconds:.4g} s")
        self.seconds = seconds


def relative_gap(cost: float, bound: float) -> float:
    """(cost - bound) / |cost|, 0 where they differ by rounding only."""
    size = max(abs(cost), abs(bound))
    if cost - bound <= 1e-9 * size:
        return 0.0
    return (cost - bound) / abs(cost) if cost else math.inf


def fits(peak: float, limit: float | None) -> bool:
    """Whether a peak meets the limit, up to rounding."""
    return limit is None or peak <= limit * (1 + ROUNDING)


def evaluate(problem: Problem, choice: Sequence[int]) -> tuple[float, float]:
    """The cost and the peak memory of a choice (`inf` cost where it takes something forbidden).

    >>> node = Choices("x", np.array([1.0, 2.0]), np.array([8.0, 4.0]), 0, 1)
    >>> evaluate(Problem((node,)), [1])
    (2.0, 4.0)
    """
    assert len(choice) == len(problem.nodes)
    terms = [float(node.costs[s]) for node, s in zip(problem.nodes, choice, strict=True)]
    terms += [float(edge.costs[choice[edge.a], choice[edge.b]]) for edge in problem.edges]
    held = np.array([node.memory[s] for node, s in zip(problem.nodes, choice, strict=True)], dtype=float)
    return math.fsum(terms), _peak(problem, held)


def _peak(problem: Problem, held: Array) -> float:
    """The most that is held at one time: roughly first, then without rounding at the times that come near."""
    spans = np.array([(node.start, node.stop) for node in problem.nodes], dtype=np.int64).reshape(-1, 2)
    starts = np.unique(spans[spans[:, 0] < spans[:, 1], 0])
    first, last = np.searchsorted(starts, spans[:, 0]), np.searchsorted(starts, spans[:, 1])
    change = np.zeros(starts.size + 1)
    np.add.at(change, first, held)
    np.subtract.at(change, np.maximum(first, last), held)
    rough = np.cumsum(change)[:-1]
    near = np.flatnonzero(rough >= rough.max(initial=0.0) - 1e-11 * held.sum())
    near = near[np.argsort(-rough[near], kind="stable")][:100]
    return max((math.fsum(held[(first <= k) & (k < last)]) for k in near), default=0.0)


def deciding_times(problem: Problem) -> tuple[Ints, Ints, int]:
    """Of the times that decide, the first at which each node is live and the one after its last; and how many there are.

    What is live at another time is part of what is live at one of these. A time decides where some node ends that began
    after the end before it: sorted, a start followed by a stop.
    """
    spans = np.array([(node.start, node.stop) for node in problem.nodes], dtype=np.int64).reshape(-1, 2)
    used = spans[:, 0] < spans[:, 1]
    starts, stops = np.unique(spans[used, 0]), np.unique(spans[used, 1])
    # The last start before each stop; of the stops that share it only one counts.
    moments = np.unique(starts[np.searchsorted(starts, stops, side="left") - 1])
    first, last = (np.where(used, np.searchsorted(moments, spans[:, end], side="left"), 0) for end in (0, 1))
    return first, last, moments.size


def merge(problem: Problem) -> Problem:
    """The same problem with at most one edge per pair of nodes, a < b, in sorted order: parallel edges are summed."""
    tables: dict[tuple[int, int], Array] = {}
    for edge in problem.edges:
        pair, table = ((edge.a, edge.b), edge.costs) if edge.a < edge.b else ((edge.b, edge.a), edge.costs.T)
        tables[pair] = tables[pair] + table if pair in tables else np.asarray(table, dtype=float)
    return Problem(problem.nodes, tuple(Edge(*pair, tables[pair]) for pair in sorted(tables)), problem.limit)


def check(problem: Problem) -> None:
    """Raise PlanError, with every offender, unless the problem is well formed."""
    offenders = [*_bad_nodes(problem), *_bad_edges(problem)]
    offenders += [] if offenders else _overflows(problem)
    if problem.limit is not None and not problem.limit >= 0:
        offenders.append(f"the limit is {problem.limit}, not a number >= 0")
    if offenders:
        rule = (
            "finite memory >= 0, costs without NaN, one memory per cost, intervals forwards, edges that fit their nodes"
        )
        raise PlanError(refusal("partition problem", "malformed", rule, offenders))


def _overflows(problem: Problem) -> list[str]:
    """Sums that are no finite numbers, although their terms are."""
    tables = [*(node.costs for node in problem.nodes), *(edge.costs for edge in problem.edges)]
    costs = [float(np.abs(table[np.isfinite(table)]).max(initial=0.0)) for table in tables]
    held = [float(node.memory.max(initial=0.0)) for node in problem.nodes]
    return [
        f"the {what} overflow: their sum is above {_MOST:g}"
        for what, terms in (("costs", costs), ("memory", held))
        if _sum(terms) > _MOST
    ]


def _sum(terms: Sequence[float]) -> float:
    """The sum of terms >= 0, infinite where it overflows."""
    try:
        return math.fsum(terms)
    except OverflowError:
        return math.inf


def _bad_nodes(problem: Problem) -> Iterator[str]:
    for i, node in enumerate(problem.nodes):
        name = f"node {i} ({node.name})"
        if node.costs.ndim != 1 or node.costs.size == 0:
            yield f"{name} has no list of strategies (costs of shape {node.costs.shape})"
        elif node.memory.shape != node.costs.shape:
            yield f"{name} has {node.costs.size} costs and memory of shape {node.memory.shape}"
        elif np.isnan(node.costs).any() or np.isneginf(node.costs).any():
            yield f"{name} has a cost that is NaN or -inf"
        elif not np.isfinite(node.memory).all() or (node.memory < 0).any():
            yield f"{name} has memory that is negative, infinite or NaN"
        if node.stop < node.start:
            yield f"{name} is live from {node.start} to {node.stop}, which is backwards"


def _bad_edges(problem: Problem) -> Iterator[str]:
    count = len(problem.nodes)
    for edge in problem.edges:
        name = f"edge {edge.a}-{edge.b}"
        if not (0 <= edge.a < count and 0 <= edge.b < count):
            yield f"{name} names a node that is none of the {count}"
            continue
        if edge.a == edge.b:
            yield f"{name} joins a node with itself"
        shape = (problem.nodes[edge.a].costs.size, problem.nodes[edge.b].costs.size)
        if edge.costs.shape != shape:
            yield f"{name} has costs of shape {edge.costs.shape}, its nodes have {shape[0]} and {shape[1]} strategies"
        elif np.isnan(edge.costs).any() or np.isneginf(edge.costs).any():
            yield f"{name} has a cost that is NaN or -inf"
