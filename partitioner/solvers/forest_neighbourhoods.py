"""Large neighbourhoods, compiled by numba: random forests of a large problem, settled exactly, the rest fixed.

grow      random nodes that induce a forest, each after its parent
_settle   the strategies of such a forest that cost least at prices, exactly, the rest fixed (dynamic programming)
improve   many such forests, one after the other; what costs less at prices, memory included, is kept
relieve   of forests that give memory back at the time that lacks most, the one that asks least per byte; until it fits
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from autopar.partitioner.problem import Array, Ints
from autopar.partitioner.solvers.flat_problem import Flat
from autopar.partitioner.solvers.trws_kernels import inner, jit


class Forest(NamedTuple):
    """Space for a forest. The k-th node is node[k], below the parent[k]-th (-1 for a root) over the edge through[k]; its
    strategies lie slot[k] onwards in `base` (costs with the rest fixed) and `work`. `old` and `fresh` are choices of it,
    `price` what memory costs it, `mark` a stamp for each node of the problem."""

    node: Ints
    parent: Ints
    through: Ints
    slot: Ints
    base: Array
    work: Array
    old: Ints
    fresh: Ints
    price: Array
    mark: Ints


def space(flat: Flat, most: int) -> Forest:
    """Space for forests of up to `most` nodes."""
    nodes = flat.start.size - 1
    widest = int(np.diff(flat.start).max(initial=0))

    def whole(size: int) -> Ints:
        return np.zeros(size, dtype=np.int64)

    return Forest(
        whole(most),
        whole(most),
        whole(most),
        whole(most + 1),
        np.zeros(most * widest),
        np.zeros(most * widest),
        whole(most),
        whole(most),
        np.zeros(most),
        whole(nodes),
    )


@jit()
def grow(flat: Flat, forest: Forest, seed: int, stamp: int, count: int, most: int) -> int:
    """Add the tree around a seed to the `count` nodes of the forest, up to `most`; returns how many there are.

    Breadth first from a random place in each node's list. A node is taken if it touches exactly one that was taken.
    """
    if forest.mark[seed] == stamp or _touched(flat, forest, seed, stamp) > 0:
        return count
    forest.mark[seed] = stamp
    forest.node[count], forest.parent[count], forest.through[count] = seed, -1, -1
    done, count = count, count + 1
    while done < count and count < most:
        i = forest.node[done]
        degree = flat.near_at[i + 1] - flat.near_at[i]
        offset = np.random.randint(degree) if degree else 0
        for k in range(degree):
            e = flat.near_edge[flat.near_at[i] + (k + offset) % degree]
            j = flat.b[e] if flat.a[e] == i else flat.a[e]
            if count < most and forest.mark[j] != stamp and _touched(flat, forest, j, stamp) == 1:
                forest.mark[j] = stamp
                forest.node[count], forest.parent[count], forest.through[count] = j, done, e
                count += 1
        done += 1
    return count


@inner()
def _touched(flat: Flat, forest: Forest, i: int, stamp: int) -> int:
    """How many neighbours of a node are in the forest; 2 for more."""
    met = 0
    for k in range(flat.near_at[i], flat.near_at[i + 1]):
        e = flat.near_edge[k]
        if forest.mark[flat.b[e] if flat.a[e] == i else flat.a[e]] == stamp:
            met += 1
            if met > 1:
                break
    return met


@inner()
def _sums(prices: Array) -> Array:
    """The prices up to each time."""
    total = np.zeros(prices.size + 1)
    for t in range(prices.size):
        total[t + 1] = total[t] + prices[t]
    return total


@inner()
def _surround(flat: Flat, forest: Forest, count: int, stamp: int, choice: Ints, total: Array) -> None:
    """What the rest, which is fixed, makes each strategy of the forest cost, and each node's price of memory."""
    at = 0
    for k in range(count):
        i = forest.node[k]
        size = flat.start[i + 1] - flat.start[i]
        forest.slot[k], forest.old[k] = at, choice[i]
        forest.price[k] = total[flat.last[i]] - total[flat.first[i]]
        for s in range(size):
            forest.base[at + s] = flat.cost[flat.start[i] + s]
        for m in range(flat.near_at[i], flat.near_at[i + 1]):
            e = flat.near_edge[m]
            j = flat.b[e] if flat.a[e] == i else flat.a[e]
            if forest.mark[j] != stamp:
                row = flat.at[e] + choice[j] * size
                table = flat.back if flat.a[e] == i else flat.forth
                for s in range(size):
                    forest.base[at + s] += table[row + s]
        at += size
    forest.slot[count] = at


@inner()
def _settle(flat: Flat, forest: Forest, count: int, factor: float) -> None:
    """The cheapest strategies at `factor` times the prices, into `fresh`: up from the leaves, then down from the roots."""
    slot, work = forest.slot, forest.work
    for k in range(count):
        i, price = forest.node[k], factor * forest.price[k]
        for s in range(slot[k + 1] - slot[k]):
            work[slot[k] + s] = forest.base[slot[k] + s] + price * flat.memory[flat.start[i] + s]
    for k in range(count - 1, -1, -1):
        up, e = forest.parent[k], forest.through[k]
        if up >= 0:
            size = slot[k + 1] - slot[k]
            table = flat.back if flat.a[e] == forest.node[k] else flat.forth  # one row per strategy of the parent
            for t in range(slot[up + 1] - slot[up]):
                row, least = flat.at[e] + t * size, 1e300
                for s in range(size):
                    least = min(least, table[row + s] + work[slot[k] + s])
                work[slot[up] + t] += least
    for k in range(count):
        up, e, size = forest.parent[k], forest.through[k], slot[k + 1] - slot[k]
        least, chosen = 1e300, 0
        for s in range(size):
            total = work[slot[k] + s]
            if up >= 0:
                table = flat.back if flat.a[e] == forest.node[k] else flat.forth
                total += table[flat.at[e] + forest.fresh[up] * size + s]
            if total < least:
                least, chosen = total, s
        forest.fresh[k] = chosen


@inner()
def _weigh(flat: Flat, forest: Forest, count: int, choice: Ints, weight: float) -> float:
    """What a choice for the forest costs, with `weight` times the price of its memory."""
    total = 0.0
    for k in range(count):
        i, s, e = forest.node[k], choice[k], forest.through[k]
        total += forest.base[forest.slot[k] + s] + weight * forest.price[k] * flat.memory[flat.start[i] + s]
        if forest.parent[k] >= 0:
            table = flat.back if flat.a[e] == i else flat.forth
            size = forest.slot[k + 1] - forest.slot[k]
            total += table[flat.at[e] + choice[forest.parent[k]] * size + s]
    return total


@inner()
def _move(flat: Flat, forest: Forest, count: int, room: Array, hard: bool) -> bool:
    """Take the change from `old` to `fresh` off the room; if it must fit and does not, put it back and say so.

    First what gives memory back: then a time that falls short later falls short at the end as well.
    """
    fits, done = True, 0
    for step in range(4):
        for k in range(count):
            i = forest.node[k]
            more = flat.memory[flat.start[i] + forest.fresh[k]] - flat.memory[flat.start[i] + forest.old[k]]
            if more == 0.0 or (more < 0.0) != (step % 2 == 0):
                continue
            if step < 2 and fits:
                done += 1
                least = 0.0
                for t in range(flat.first[i], flat.last[i]):
                    room[t] -= more
                    least = min(least, room[t])
                fits = least >= 0.0 or more < 0.0 or not hard
            elif step >= 2 and done > 0:
                done -= 1
                for t in range(flat.first[i], flat.last[i]):
                    room[t] += more
        if step == 1 and fits:
            return True
    return False


@jit()
def improve(
    flat: Flat,
    forest: Forest,
    choice: Ints,
    room: Array,
    prices: Array,
    weight: float,
    sizes: Ints,
    rounds: int,
    seed: int,
    stamp: int,
    hard: bool,
) -> int:
    """Settle up to `rounds` random forests; keep what lowers cost + weight * price of memory. Returns the last stamp.

    `room` is what the choice leaves; both change in place. If `hard`, what does not fit is tried again at higher prices, then
    given up; otherwise it is kept, and all ends as soon as nothing is missing any more.
    """
    np.random.seed(seed)
    total = _sums(prices)
    for _ in range(rounds):
        stamp += 1
        count, size = int(np.int64(0)), sizes[np.random.randint(sizes.size)]
        pieces = 1 if np.random.random() < 0.5 else np.random.randint(2, 6)
        for p in range(pieces):
            most = max(size * (p + 1) // pieces, count + 1)
            if most <= size:
                count = grow(flat, forest, np.random.randint(choice.size), stamp, count, most)
        _surround(flat, forest, count, stamp, choice, total)
        before = _weigh(flat, forest, count, forest.old, weight)
        factor = np.exp(np.random.random() * 2.0 - 1.0) * max(weight, 0.1) if hard else weight
        for _attempt in range(3 if hard else 1):
            _settle(flat, forest, count, factor)
            if _weigh(flat, forest, count, forest.fresh, weight) < before - 1e-9 * abs(before):
                if _move(flat, forest, count, room, hard):
                    for k in range(count):
                        choice[forest.node[k]] = forest.fresh[k]
                    if not hard and room.size and room.min() >= 0.0:
                        return stamp
                    break
            elif factor >= weight:
                break
            factor *= 1.6
    return stamp


@jit()
def relieve(
    flat: Flat, forest: Forest, choice: Ints, room: Array, prices: Array, steps: int, tries: int, seed: int, stamp: int
) -> int:
    """Up to `steps` times, at the time that lacks most, settle the forest that asks least per byte given back there, of
    `tries` random ones around nodes that can give; `choice` and `room` change in place. Returns the last stamp."""
    np.random.seed(seed)
    total = _sums(prices)
    best_node, best_old, best_fresh = np.empty_like(forest.node), np.empty_like(forest.node), np.empty_like(forest.node)
    givers, boost_least = np.empty(choice.size, np.int64), total[-1] / max(prices.size, 1) + 1e-300
    for _ in range(steps):
        worst, number = int(np.argmin(room)), 0
        short = -room[worst]
        if short <= 0.0:
            break
        for i in range(choice.size):
            if flat.first[i] <= worst < flat.last[i]:
                own = flat.memory[flat.start[i] : flat.start[i + 1]]
                if own[choice[i]] > own.min():
                    givers[number] = i
                    number += 1
        best_rate, best_count = 1e300, int(np.int64(0))
        for _attempt in range(tries if number else 0):
            stamp += 1
            most = min(int(np.exp(np.random.random() * 7.0)), forest.node.size)
            count = grow(flat, forest, int(givers[np.random.randint(number)]), stamp, int(np.int64(0)), most)
            _surround(flat, forest, count, stamp, choice, total)
            before = _weigh(flat, forest, count, forest.old, 1.0)
            boost = boost_least
            while boost < 1e18 * boost_least:
                back, after = _boosted(flat, forest, count, worst, boost)
                if back > 0.0:
                    rate = (after - before) / min(back, short)
                    if rate < best_rate and after - before < 0.5 * flat.huge:
                        best_rate, best_count = rate, count
                        for k in range(count):
                            best_node[k], best_old[k], best_fresh[k] = forest.node[k], forest.old[k], forest.fresh[k]
                    break
                boost *= 3.0
        if best_count == 0:
            break
        for k in range(best_count):
            forest.node[k], forest.old[k], forest.fresh[k] = best_node[k], best_old[k], best_fresh[k]
        _move(flat, forest, best_count, room, bool(np.bool_(False)))
        for k in range(best_count):
            choice[best_node[k]] = best_fresh[k]
    return stamp


@inner()
def _boosted(flat: Flat, forest: Forest, count: int, worst: int, boost: float) -> tuple[float, float]:
    """Settle the forest with memory at the worst time dearer: what it gives back there, and its cost at the old prices."""
    for k in range(count):
        if flat.first[forest.node[k]] <= worst < flat.last[forest.node[k]]:
            forest.price[k] += boost
    _settle(flat, forest, count, 1.0)
    back = 0.0
    for k in range(count):
        i = forest.node[k]
        if flat.first[i] <= worst < flat.last[i]:
            forest.price[k] -= boost
            back += flat.memory[flat.start[i] + forest.old[k]] - flat.memory[flat.start[i] + forest.fresh[k]]
    return back, _weigh(flat, forest, count, forest.fresh, 1.0)
