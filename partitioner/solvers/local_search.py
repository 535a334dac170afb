"""The heuristic that needs no solver: prices for memory, message passing, then local search. Deterministic.

`search` ascends the dual (see `lagrangian_dual`), and turns each choice seen on the way into one that meets the limit:

    repair      while a time is over its room, take the step that gives up the least cost per byte
    descend     move one node at a time to its best strategy that fits
    exchange    move two nodes at a time, neighbours or two that compete for memory, exactly
    resettle    solve a small connected set of nodes again by elimination at several multiples of the memory prices,
                the rest held fixed
    first_fit   where forbidden pairs or the limit left none of these a start: depth first with forward checking

The bound is the dual's: it holds whatever the local search does.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopar.partitioner.problem import Array, relative_gap
from autopar.partitioner.solvers.lagrangian_dual import (
    Choice,
    DirectedEdges,
    Dual,
    ascend,
    decode,
    links,
    priced,
    sweep,
    used,
    value,
)
from autopar.partitioner.solvers.presolve import (
    Core,
    Factors,
    Scope,
    Wiped,
    drop_forbidden,
    eliminate_all,
    profile,
    restore,
)

_EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to do: sweeps of the dual, rounds of local search while the gap is above `enough`, and nodes of the
    depth-first search."""

    sweeps: int = 250
    rounds: int = 6
    trials: int = 3000
    enough: float = 0.0


@dataclass(slots=True, eq=False)
class LocalSearch:
    """The state: the best choice so far (changed in place), and what stays."""

    core: Core
    net: DirectedEdges
    deadline: float
    choice: Choice | None = None
    cost: float = math.inf

    def offer(self, choice: Choice) -> bool:
        """Keep a choice that meets the limit and is cheaper; say whether it was."""
        cost = value(self.core, choice)
        better = cost < self.cost - _EPSILON * abs(cost) and overuse(self.core, choice) <= 0
        if better:
            self.choice, self.cost = choice.copy(), cost
        return better

    def late(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() > self.deadline


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """The best choice (None for none below the cost that was known), the least cost known, the dual, and whether it is
    certain that no choice exists."""

    choice: Choice | None
    cost: float
    dual: Dual
    impossible: bool = False

    @property
    def proven(self) -> bool:
        """Whether the cost is optimal up to rounding."""
        return bool(np.isfinite(self.cost)) and relative_gap(self.cost, self.dual.bound) == 0


def search(core: Core, effort: Effort, deadline: float, known: float = math.inf) -> SearchResult:
    """The best choice within the effort (and the time, as a safeguard), and a bound. `known` is a cost known to be possible."""
    state = LocalSearch(core, links(core), deadline, cost=known)
    dual = _ascend(state, effort)
    impossible = False
    if math.isinf(state.cost):
        start, complete = first_fit(state, priced(core, dual.prices), effort.trials)
        impossible = complete and start is None
        if start is not None:
            state.offer(start)
    result = SearchResult(state.choice, state.cost, dual, impossible)
    if state.choice is None or not effort.rounds or relative_gap(state.cost, dual.bound) <= effort.enough:
        return result
    _round_up(state, dual)
    _improve(state, dual, effort.rounds)
    return SearchResult(state.choice, state.cost, dual)


def _ascend(state: LocalSearch, effort: Effort) -> Dual:
    seen = 0

    def see(choice: Choice, _prices: Array) -> float:
        nonlocal seen
        if not math.isinf(value(state.core, choice)) and (seen % 5 == 0 or overuse(state.core, choice) <= 0):
            _take(state, choice)
        seen += 1
        return -math.inf if state.late() else state.cost

    return ascend(state.core, effort.sweeps if state.core.room.size else effort.sweeps // 3, see)


def _take(state: LocalSearch, choice: Choice) -> None:
    """Offer a choice once it is repaired and descended from."""
    choice = choice.copy()
    if repair(state, choice):
        descend(state, choice)
        state.offer(choice)


def _round_up(state: LocalSearch, dual: Dual) -> None:
    """Choices made at prices above the dual's: they use less memory, and need less repair."""
    for factor in (1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 4.0) if dual.prices.any() else ():
        costs, messages = priced(state.core, factor * dual.prices), list(dual.messages)
        for _ in range(3):
            sweep(costs, state.net, messages)
        choice = decode(costs, state.net, messages)
        if math.isfinite(value(state.core, choice)):
            _take(state, choice)


def _improve(state: LocalSearch, dual: Dual, rounds: int) -> None:
    """Local search until a round brings nothing, the bound is met, or the rounds are over."""
    assert state.choice is not None
    for size in [6 + 4 * i for i in range(rounds)]:
        before = state.cost
        choice = state.choice.copy()
        descend(state, choice)
        exchange(state, choice)
        state.offer(choice)
        resettle(state, dual.prices, size)
        if state.late() or (state.cost == before and size > 14) or relative_gap(state.cost, dual.bound) == 0:
            return


def overuse(core: Core, choice: Choice) -> float:
    """By how much a choice exceeds the room at the worst time; at most 0 where it fits."""
    return float((used(core, choice) - core.room).max(initial=0.0))


def alternatives(state: LocalSearch, choice: Choice, node: int, without: int = -1) -> Array:
    """What each strategy of a node would cost, its edges included (but not that to `without`), with the rest as chosen."""
    total = state.core.costs[node].copy()
    for side in (state.net.later[node], state.net.earlier[node]):
        for link in side:
            if link.to != without:
                total += link.table[choice[link.to]]
    return total


def neighbours_of(state: LocalSearch, node: int) -> list[int]:
    """The neighbours of a node."""
    return [link.to for side in (state.net.later[node], state.net.earlier[node]) for link in side]


def repair(state: LocalSearch, choice: Choice) -> bool:
    """Change a choice of finite cost until it fits, in place; say whether it does. Every step only gives memory back."""
    core = state.core
    if not core.room.size:
        return True
    spans, excess = np.array(core.spans), used(core, choice) - core.room
    rises: dict[int, Array] = {}
    while (worst := int(excess.argmax())) >= 0 and excess[worst] > 0:
        best = (math.inf, -1, -1)
        for i in np.flatnonzero((spans[:, 0] <= worst) & (worst < spans[:, 1])).tolist():
            if i not in rises:
                costs = alternatives(state, choice, i)
                rises[i] = costs - costs[choice[i]]
            back = np.minimum(core.memory[i][choice[i]] - core.memory[i], excess[worst])
            rate = np.where(back > 0, np.maximum(rises[i], 0) / np.where(back > 0, back, 1), np.inf)
            s = int(rate.argmin())
            best = min(best, (float(rate[s]), i, s))
        rate_least, i, s = best
        if math.isinf(rate_least):
            return False
        _move(core, choice, excess, i, s)
        for j in (i, *neighbours_of(state, i)):
            rises.pop(j, None)
    return overuse(core, choice) <= 0


def _move(core: Core, choice: Choice, held: Array, node: int, strategy: int) -> None:
    first, last = core.spans[node]
    held[first:last] += core.memory[node][strategy] - core.memory[node][choice[node]]
    choice[node] = strategy


def _slack(room: Array, first: int, last: int) -> float:
    return float(room[first:last].min(initial=math.inf))


def descend(state: LocalSearch, choice: Choice) -> None:
    """Move single nodes to cheaper strategies that fit, in place, until none is left."""
    core = state.core
    held = used(core, choice)
    moved = True
    while moved and not state.late():
        moved = False
        for i in range(len(core.costs)):
            costs = alternatives(state, choice, i)
            more = core.memory[i] - core.memory[i][choice[i]]
            costs[more > max(_slack(core.room - held, *core.spans[i]), 0.0)] = np.inf
            s = int(costs.argmin())
            if costs[s] < costs[choice[i]] - _EPSILON * abs(costs[s]):
                _move(core, choice, held, i, s)
                moved = True


def exchange(state: LocalSearch, choice: Choice) -> None:
    """Move two nodes at once where that is cheaper and fits: neighbours, and nodes that want memory with nodes that have it."""
    core = state.core
    tables = {(edge.a, edge.b): edge.costs for edge in core.edges}
    for (a, b), table in tables.items():
        _exchange(state, choice, a, b, table)
    wanting = []
    for i in range(len(core.costs)):
        costs = alternatives(state, choice, i)
        gain = float(costs[choice[i]] - costs.min())
        if gain > 0:
            wanting.append((-gain, i))
    for _, i in sorted(wanting)[:40]:
        for j in range(len(core.costs)):
            if j != i and (min(i, j), max(i, j)) not in tables and not state.late():
                _exchange(state, choice, i, j, None)


def _exchange(state: LocalSearch, choice: Choice, a: int, b: int, table: Array | None) -> None:
    """The best pair of strategies for two nodes, the rest fixed, in place."""
    core = state.core
    total = alternatives(state, choice, a, b)[:, None] + alternatives(state, choice, b, a)
    total = total if table is None else total + table
    more_a, more_b = (core.memory[i] - core.memory[i][choice[i]] for i in (a, b))
    room = core.room - used(core, choice)
    (first_a, last_a), (first_b, last_b) = core.spans[a], core.spans[b]
    for first, last in ((first_a, last_a), (first_b, last_b)):
        room_of = room[first:last]
        here = np.arange(first, last)
        for in_a in (True, False):
            for in_b in (True, False):
                times = ((here >= first_a) & (here < last_a)) == in_a
                times &= ((here >= first_b) & (here < last_b)) == in_b
                if times.any():
                    more = more_a[:, None] * in_a + more_b * in_b
                    total[more > max(float(room_of[times].min()), 0.0)] = np.inf
    s, t = (int(index) for index in np.unravel_index(int(total.argmin()), total.shape))
    if total[s, t] < total[choice[a], choice[b]] - _EPSILON * abs(total[s, t]):
        choice[a], choice[b] = s, t


def resettle(state: LocalSearch, prices: Array, size: int) -> None:
    """Solve a ball of `size` nodes around every node again, exactly at prices, the rest fixed; keep what is better."""
    for seed in range(len(state.core.costs)):
        if state.late():
            return
        ball = _ball(state, seed, size)
        for factor in (0.5, 0.9, 1.0, 1.1, 1.5, 2.5) if prices.any() else (0.0,):
            assert state.choice is not None
            choice = _solve_ball(state, ball, state.choice, factor * prices)
            if choice is not None and state.offer(choice):
                break


def _ball(state: LocalSearch, seed: int, size: int) -> list[int]:
    ball, edge = [seed], [seed]
    while edge and len(ball) < size:
        edge = [j for i in edge for j in neighbours_of(state, i) if j not in ball]
        ball += list(dict.fromkeys(edge))[: size - len(ball)]
        edge = [i for i in edge if i in ball]
    return sorted(ball)


def _solve_ball(state: LocalSearch, ball: list[int], choice: Choice, prices: Array) -> Choice | None:
    core, inside = state.core, set(ball)
    costs = dict(zip(ball, (c.copy() for c in priced(_part(core, ball), prices)), strict=True))
    tables: dict[Scope, Array] = {}
    near: dict[int, set[Scope]] = {i: set() for i in ball}
    for i in ball:
        for link in state.net.later[i]:
            if link.to in inside:
                tables[i, link.to] = link.table.T
                near[i].add((i, link.to))
                near[link.to].add((i, link.to))
        for side in (state.net.later[i], state.net.earlier[i]):
            for link in side:
                if link.to not in inside:
                    costs[i] += link.table[choice[link.to]]
    kept = {i: np.arange(costs[i].size) for i in ball}
    memory = {i: core.memory[i] for i in ball}
    f = Factors(kept, costs, memory, dict.fromkeys(ball, (0, 0)), np.zeros(0), tables, near, 0.0, [])
    try:
        drop_forbidden(f)
    except Wiped:
        return None
    if not eliminate_all(f, 3e6, 2e5):
        return None
    fresh = choice.copy()
    fresh[ball] = restore(f, {})
    return fresh


def _part(core: Core, nodes: list[int]) -> Core:
    """The nodes alone, with their spans."""
    costs, memory = tuple(core.costs[i] for i in nodes), tuple(core.memory[i] for i in nodes)
    return Core(tuple(nodes), costs, memory, tuple(core.spans[i] for i in nodes), core.room, (), 0.0)


def first_fit(state: LocalSearch, costs: list[Array], trials: int) -> tuple[Choice | None, bool]:
    """Depth first with forward checking for any choice that fits; also whether the search was complete."""
    masks = [np.ones(own.size, dtype=bool) for own in costs]
    stack = [_branches(masks, costs)] if _propagate(state, masks) else []
    while stack:
        if not stack[-1][2]:
            stack.pop()
            continue
        masks, node, rest = stack[-1]
        if node < 0:
            return np.array([int(mask.argmax()) for mask in masks], dtype=np.intp), True
        if not trials or state.late():
            return None, False
        trials -= 1
        inner = [mask.copy() for mask in masks]
        inner[node][:] = False
        inner[node][rest.pop(0)] = True
        if _propagate(state, inner):
            stack.append(_branches(inner, costs))
    return None, True


def _branches(masks: list[NDArray[np.bool_]], costs: list[Array]) -> tuple[list[NDArray[np.bool_]], int, list[int]]:
    """The open node with the fewest strategies left, and these in order of cost; node -1 where all are decided."""
    left = [(int(mask.sum()), i) for i, mask in enumerate(masks)]
    count, node = min(((n, i) for n, i in left if n > 1), default=(0, -1))
    return masks, node, sorted(np.flatnonzero(masks[node]).tolist(), key=lambda s: costs[node][s]) if count else [0]


def _propagate(state: LocalSearch, masks: list[NDArray[np.bool_]]) -> bool:
    """Strike out what has no partner left or no longer fits, in place; False where a node has nothing left."""
    core = state.core
    changed = True
    while changed:
        before = sum(int(mask.sum()) for mask in masks)
        for edge in core.edges:
            allowed = np.isfinite(edge.costs)
            masks[edge.a] &= allowed[:, masks[edge.b]].any(axis=1)
            masks[edge.b] &= allowed[masks[edge.a]].any(axis=0)
        if not all(mask.any() for mask in masks):
            return False
        least = [float(memory[mask].min()) for memory, mask in zip(core.memory, masks, strict=True)]
        room = core.room - profile(core.spans, least, core.room.size)
        if room.size and room.min() < 0:
            return False
        for memory, mask, low, span in zip(core.memory, masks, least, core.spans, strict=True):
            mask &= memory - low <= _slack(room, *span)
        changed = sum(int(mask.sum()) for mask in masks) < before
    return True
