"""Lower bounds and first choices without a solver: message passing with prices for memory.

For any prices p_k >= 0 of the times k, and any messages m moved between an edge and its ends,

    bound = sum_i min_s (c_i(s) + p-weighted memory of s + messages to i)
          + sum_e min (E_e - messages out of e) - sum_k p_k room_k   <=   the least cost that meets the limit

* `sweep` moves messages by sequential tree-reweighted passing (TRW-S: Kolmogorov, PAMI 2006): at fixed prices every sweep
  raises the bound or leaves it, and on a tree two passes reach the optimum.
* `ascend` moves the prices along a subgradient, what the current choice uses beyond the room, by Polyak's step.
* `excess` says by how much the bound would rise if a strategy or a pair were taken: whatever rises above the cost of a known
  choice can be left out (`prune`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopar.partitioner.problem import Array
from autopar.partitioner.solvers.presolve import Core, profile

Choice = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class DirectedEdge:
    """One direction of an edge: `to` the other end, `table` with one row per strategy of `to`, the slot of the message
    that arrives here (`here`) and the one that arrives there (`there`)."""

    to: int
    table: Array
    here: int
    there: int


@dataclass(frozen=True, slots=True, eq=False)
class DirectedEdges:
    """For each node, the links to later nodes and to earlier ones."""

    later: tuple[tuple[DirectedEdge, ...], ...]
    earlier: tuple[tuple[DirectedEdge, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Dual:
    """A bound and what proves it: prices per time, and messages (slot 2e goes to end a of edge e, 2e + 1 to its end b)."""

    bound: float
    prices: Array
    messages: tuple[Array, ...]


def links(core: Core) -> DirectedEdges:
    """The edges of a core as seen from each node."""
    later: list[list[DirectedEdge]] = [[] for _ in core.costs]
    earlier: list[list[DirectedEdge]] = [[] for _ in core.costs]
    for e, edge in enumerate(core.edges):
        later[edge.a].append(DirectedEdge(edge.b, np.ascontiguousarray(edge.costs.T), 2 * e, 2 * e + 1))
        earlier[edge.b].append(DirectedEdge(edge.a, np.ascontiguousarray(edge.costs), 2 * e + 1, 2 * e))
    return DirectedEdges(tuple(map(tuple, later)), tuple(map(tuple, earlier)))


def silence(core: Core) -> list[Array]:
    """Messages that say nothing."""
    return [np.zeros(core.costs[i].size) for edge in core.edges for i in (edge.a, edge.b)]


def priced(core: Core, prices: Array) -> list[Array]:
    """Node costs with the price of their memory added."""
    total = np.concatenate([[0.0], np.cumsum(prices)])
    spans = zip(core.costs, core.memory, core.spans, strict=True)
    return [costs + memory * (total[last] - total[first]) for costs, memory, (first, last) in spans]


def sweep(costs: list[Array], net: DirectedEdges, messages: list[Array]) -> float:
    """Pass messages forwards, then backwards, in place; return the bound (without constants) for these node costs."""
    _one_way(range(len(costs)), costs, net.later, net.earlier, messages)
    return _one_way(range(len(costs) - 1, -1, -1), costs, net.earlier, net.later, messages)


def _one_way(
    order: range,
    costs: list[Array],
    ahead: tuple[tuple[DirectedEdge, ...], ...],
    behind: tuple[tuple[DirectedEdge, ...], ...],
    messages: list[Array],
) -> float:
    bound = 0.0
    for i in order:
        total = _belief(i, costs, ahead, behind, messages)
        share = 1 / max(len(ahead[i]), 1)
        if not ahead[i]:
            bound += float(total.min())
        for link in ahead[i]:
            message = (link.table + (share * total - messages[link.here])).min(axis=1)
            least = float(message.min())
            messages[link.there] = message - least
            bound += least
    return bound


def _belief(
    i: int,
    costs: list[Array],
    ahead: tuple[tuple[DirectedEdge, ...], ...],
    behind: tuple[tuple[DirectedEdge, ...], ...],
    messages: list[Array],
) -> Array:
    total = costs[i]
    for side in (ahead[i], behind[i]):
        for link in side:
            total = total + messages[link.here]
    return total


def decode(costs: list[Array], net: DirectedEdges, messages: list[Array]) -> Choice:
    """A choice, node after node: the least given the choices made so far and the messages from the nodes to come."""
    choice = np.zeros(len(costs), dtype=np.intp)
    for i, own in enumerate(costs):
        total = own
        for link in net.earlier[i]:
            total = total + link.table[choice[link.to]]
        for link in net.later[i]:
            total = total + messages[link.here]
        choice[i] = int(total.argmin())
    return choice


def used(core: Core, choice: Choice) -> Array:
    """The memory that a choice holds at each time."""
    return profile(
        core.spans, [float(memory[s]) for memory, s in zip(core.memory, choice, strict=True)], core.room.size
    )


def value(core: Core, choice: Choice) -> float:
    """The cost of a choice, memory aside."""
    own = sum(float(costs[s]) for costs, s in zip(core.costs, choice, strict=True))
    return core.constant + own + sum(float(edge.costs[choice[edge.a], choice[edge.b]]) for edge in core.edges)


def ascend(core: Core, sweeps: int, see: Callable[[Choice, Array], float]) -> Dual:
    """The best bound within so many sweeps. `see` is shown each choice with the prices it was made at, and answers with
    the cost of the best choice known (`inf` while there is none), which sets the step and ends the ascent when met."""
    net, messages = links(core), silence(core)
    prices, slope = np.zeros(core.room.size), np.zeros(core.room.size)
    best = Dual(-np.inf, prices, tuple(messages))
    pace, stale = 1.0, 0
    for _ in range(sweeps):
        costs = priced(core, prices)
        bound = core.constant + sweep(costs, net, messages) - float(prices @ core.room)
        stale = 0 if bound > best.bound + 1e-7 * abs(bound) else stale + 1
        if bound > best.bound:
            best = Dual(bound, prices, tuple(messages))
        choice = decode(costs, net, messages)
        known = see(choice, prices)
        met = known < np.inf and known <= best.bound + 1e-9 * max(abs(known), abs(best.bound))
        if met or (stale >= 10 and not core.room.size):
            break
        slope = 0.5 * slope + 0.5 * (used(core, choice) - core.room)
        if bound < best.bound - pace * (known - best.bound) or (stale and stale % 8 == 0):
            pace, prices, slope = 0.65 * pace, best.prices, used(core, choice) - core.room
        prices = _step(core, prices, slope, known, bound, pace)
    return best


def _step(core: Core, prices: Array, slope: Array, known: float, bound: float, pace: float) -> Array:
    """Polyak's step towards the best known cost, or a guess of it where none is known."""
    active = np.where((prices > 0) | (slope > 0), slope, 0.0)
    length = float(active @ active)
    if not length:
        return prices
    spread = max((float(np.ptp(costs)) for costs in core.costs), default=0.0)
    aim = known - bound if np.isfinite(known) else 0.05 * abs(bound) + spread
    return np.maximum(prices + pace * aim / length * slope, 0.0)


def excess(core: Core, dual: Dual) -> tuple[list[Array], list[Array]]:
    """By how much the bound rises at least when a strategy (first) or a pair (second) is taken."""
    net, messages = links(core), list(dual.messages)
    costs = priced(core, dual.prices)
    nodes: list[Array] = []
    shares: dict[int, Array] = {}
    for i in range(len(costs)):
        total = _belief(i, costs, net.earlier, net.later, messages)
        shares.update({link.here: total / len(net.earlier[i]) for link in net.earlier[i]})
        nodes.append(np.zeros(total.size) if net.earlier[i] else total - total.min())
    pairs: list[Array] = []
    for e, edge in enumerate(core.edges):
        table = edge.costs - messages[2 * e][:, None] + (shares[2 * e + 1] - messages[2 * e + 1])
        pairs.append(table - table.min())
    alone = [node.copy() for node in nodes]
    for edge, table in zip(core.edges, pairs, strict=True):
        alone[edge.a] += table.min(axis=1)
        alone[edge.b] += table.min(axis=0)
    for edge, table in zip(core.edges, pairs, strict=True):
        # What the pair costs, and what its two ends cost apart from this edge.
        table += (alone[edge.a] - table.min(axis=1))[:, None] + (alone[edge.b] - table.min(axis=0))
    return alone, pairs
