"""The loops over whole large problems, compiled by numba; `flat_problem` has the arrays.

sweep     one pass of messages forwards and one back (TRW-S, see `lagrangian_dual`): the bound, and each node's preferred strategy
certify   the bound that messages and node costs prove, less what rounding can add to it
decode    a choice, node after node, given the choices before and the messages from the nodes after
value     what a choice costs
held      what a choice holds at each time
"""

from __future__ import annotations

from functools import partial

import numba
import numpy as np

from autopar.partitioner.problem import Array, Ints
from autopar.partitioner.solvers.flat_problem import Flat

jit = partial(numba.njit, cache=True, nogil=True, fastmath={"nnan", "ninf", "nsz", "contract", "arcp"})
"""Compiled at the first call and kept beside the file; no lock of the interpreter; sums are never reordered.

It compiles a variant for every literal among the arguments, and one more for what a literal starts: hence ``int(np.int64(0))``.
Functions of arrays (`numpy.cumsum`, slices that are assigned) take longer to compile than the loops in their places here.
"""
inner = partial(jit, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""For what only compiled functions call (the interpreter must not: it would crash): half as long to compile."""
_EPSILON = 2.0**-52


@jit()
def sweep(flat: Flat, own: Array, messages: Array, prefer: Ints) -> float:
    """Pass messages forwards, then backwards, in place; `prefer` gets each node's best strategy. Returns the bound."""
    nodes, widest = flat.start.size - 1, 0
    for i in range(nodes):
        widest = max(widest, flat.start[i + 1] - flat.start[i])
    total, out, bound = np.empty(widest), np.empty(widest), 0.0
    for way in range(2):
        bound = 0.0
        for step in range(nodes):
            i = step if way == 0 else nodes - 1 - step
            ahead = _believe(flat, own, messages, i, way == 0, total)
            prefer[i] = np.argmin(total[: flat.start[i + 1] - flat.start[i]])
            if ahead == 0:
                bound += total[prefer[i]]
                continue
            for k in range(flat.near_at[i], flat.near_at[i + 1]):
                e = flat.near_edge[k]
                if (flat.a[e] == i) == (way == 0):
                    bound += _pass_on(flat, messages, e, way == 0, 1.0 / ahead, total, out)
    return bound


@inner()
def _believe(flat: Flat, own: Array, messages: Array, i: int, forwards: bool, total: Array) -> int:
    """A node's costs with all messages to it, into `total`; returns how many edges lie ahead."""
    ahead, size = 0, flat.start[i + 1] - flat.start[i]
    for s in range(size):
        total[s] = own[flat.start[i] + s]
    for k in range(flat.near_at[i], flat.near_at[i + 1]):
        e = flat.near_edge[k]
        here = flat.to_a[e] if flat.a[e] == i else flat.to_b[e]
        for s in range(size):
            total[s] += messages[here + s]
        if (flat.a[e] == i) == forwards:
            ahead += 1
    return ahead


@inner()
def _pass_on(flat: Flat, messages: Array, e: int, forwards: bool, share: float, total: Array, out: Array) -> float:
    """The message over an edge, made from a share of what the sender has; returns what is taken out of it."""
    i, j = (flat.a[e], flat.b[e]) if forwards else (flat.b[e], flat.a[e])
    here, there = (flat.to_a[e], flat.to_b[e]) if forwards else (flat.to_b[e], flat.to_a[e])
    table = flat.forth if forwards else flat.back
    size, width = flat.start[i + 1] - flat.start[i], flat.start[j + 1] - flat.start[j]
    for t in range(width):
        out[t] = 1e300
    for s in range(size):
        add = share * total[s] - messages[here + s]
        row = flat.at[e] + s * width
        for t in range(width):
            out[t] = min(out[t], table[row + t] + add)
    least = out[0]
    for t in range(width):
        least = min(least, out[t])
    for t in range(width):
        messages[there + t] = out[t] - least
    return float(least)


@jit()
def certify(flat: Flat, own: Array, messages: Array) -> float:
    """The bound that these messages prove: whatever they are, each term is computed from them alone, and rounded down.

    As at the end of `sweep`, a node with earlier neighbours gives all it has to the edges to them, in equal shares.
    """
    bound, off = 0.0, 0.0
    widest = 0
    for i in range(flat.start.size - 1):
        widest = max(widest, flat.start[i + 1] - flat.start[i])
    total, sizes = np.empty(widest), np.empty(widest)
    for j in range(flat.start.size - 1):
        width = flat.start[j + 1] - flat.start[j]
        earlier = _believe(flat, own, messages, j, bool(np.bool_(False)), total)
        for t in range(width):
            sizes[t] = abs(own[flat.start[j] + t])
        for k in range(flat.near_at[j], flat.near_at[j + 1]):
            e = flat.near_edge[k]
            here = flat.to_a[e] if flat.a[e] == j else flat.to_b[e]
            for t in range(width):
                sizes[t] += abs(messages[here + t])
        terms = flat.near_at[j + 1] - flat.near_at[j] + 4
        for t in range(width):
            total[t] -= _EPSILON * terms * sizes[t]
        if earlier == 0:
            least = total[0]
            for t in range(width):
                least = min(least, total[t])
            bound += least
            off += abs(least)
        for k in range(flat.near_at[j], flat.near_at[j + 1]):
            e = flat.near_edge[k]
            if flat.b[e] == j:
                least = _least_of(flat, messages, e, total, earlier)
                bound += least
                off += abs(least)
    return bound - _EPSILON * (flat.start.size + flat.a.size) * off


@inner()
def _least_of(flat: Flat, messages: Array, e: int, total: Array, shares: int) -> float:
    """The least entry of an edge's table that is left when its messages are taken out and its later end's share is added."""
    least, width = 1e300, flat.start[flat.b[e] + 1] - flat.start[flat.b[e]]
    for s in range(flat.start[flat.a[e] + 1] - flat.start[flat.a[e]]):
        out = messages[flat.to_a[e] + s]
        for t in range(width):
            back, cost = messages[flat.to_b[e] + t], flat.forth[flat.at[e] + s * width + t]
            size = abs(cost) + abs(out) + abs(back) + abs(total[t])
            least = min(least, cost - out - back + total[t] / shares - 5.0 * _EPSILON * size)
    return least


@jit()
def decode(flat: Flat, own: Array, messages: Array, choice: Ints) -> None:
    """A choice, node after node: the least given the choices made so far and the messages from the nodes to come."""
    for i in range(flat.start.size - 1):
        size = flat.start[i + 1] - flat.start[i]
        total = own[flat.start[i] : flat.start[i + 1]].copy()
        for k in range(flat.near_at[i], flat.near_at[i + 1]):
            e = flat.near_edge[k]
            if flat.b[e] == i:
                row = flat.at[e] + choice[flat.a[e]] * size
                for s in range(size):
                    total[s] += flat.forth[row + s]
            else:
                for s in range(size):
                    total[s] += messages[flat.to_a[e] + s]
        choice[i] = np.argmin(total)


@jit()
def value(flat: Flat, choice: Ints) -> float:
    """The cost of a choice, memory aside."""
    total = 0.0
    for i in range(choice.size):
        total += flat.cost[flat.start[i] + choice[i]]
    for e in range(flat.a.size):
        width = flat.start[flat.b[e] + 1] - flat.start[flat.b[e]]
        total += flat.forth[flat.at[e] + choice[flat.a[e]] * width + choice[flat.b[e]]]
    return total


@jit()
def held(flat: Flat, choice: Ints) -> Array:
    """The memory held at each time."""
    total = np.zeros(flat.room.size)
    for i in range(choice.size):
        more = flat.memory[flat.start[i] + choice[i]]
        if more != 0.0:
            for t in range(flat.first[i], flat.last[i]):
                total[t] += more
    return total


@jit()
def roughly_held(flat: Flat, choice: Ints) -> Array:
    """`held`, up to rounding, in time that does not grow with the length of the nodes' lives."""
    total = np.zeros(flat.room.size + 1)
    for i in range(choice.size):
        more = flat.memory[flat.start[i] + choice[i]]
        total[flat.first[i]] += more
        total[flat.last[i]] -= more
    for t in range(1, flat.room.size):
        total[t] += total[t - 1]
    return total[: flat.room.size]
