"""Seconds of each collective by each algorithm that the literature has for it, over the ranks of one grid axis.

A message of n bytes takes alpha + n / beta seconds; p ranks, L = ceil(log2 p) rounds; n as for `communication`: the
whole tensor of the axis for a gather, scatter or sum, one rank's part for an all-to-all.

    gather, scatter   ring        (p-1) (alpha + n/p/beta)                       [P] [T]
                      bruck       L alpha + (p-1)/p n/beta                       [B]; a scatter by halving [T]
    sum               doubling    L (alpha + n/beta)                             recursive doubling [T]
                      two_phases  a scatter, then a gather                       [R] with halving, [P] with rings
    all_to_all        pairwise    (p-1) alpha + (p-1)/p n/beta                   [T]
                      bruck       L (alpha + n/2/beta)                           [B]
    any               two_level   between nodes only what a node's ranks share   [K]

Two levels, m ranks in each of k nodes: a gather first fetches from the same rank of all nodes (k ranks, n/m), then inside
(m, n); a scatter goes backwards; a sum scatters inside, sums n/m across, gathers inside; an all-to-all goes inside, then
across, with all of its bytes both times.

[B] Bruck, Ho, Kipnis, Upfal, Weathersby, "Efficient Algorithms for All-to-All Communications in Multiport Message-Passing
    Systems", IEEE TPDS 8(11), 1997
[K] Kielmann, Hofman, Bal, Plaat, Bhoedjang, "MagPIe: MPI's Collective Communication Operations for Clustered Wide Area
    Systems", PPoPP 1999
[P] Patarasuk and Yuan, "Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations", JPDC 69(2), 2009
[R] Rabenseifner, "Optimization of Collective Reduction Operations", ICCS 2004
[T] Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH", IJHPCA 19(1), 2005

For p not a power of two, halving and doubling take one or two messages more [T]; these are left out, so that every price
grows with p. Additions are part of beta. A library chooses by size; `seconds` takes the cheapest. Where an intra-node link
is at least as good as the other, prices grow with n and with p, and no detour is cheaper than the way: an
all-to-all costs at most a gather, a gather or a scatter at most a sum, and a sum at most a scatter and a gather.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from autopar.ir.grid import GridShape
from autopar.ir.layout import Copied, Layouts
from autopar.ir.machine import Link, Machine, crowding

Collective = Literal["gather", "scatter", "sum", "all_to_all"]
Bytes = TypeVar("Bytes", float, NDArray[np.float64])  # one number of bytes, or many at once


OF_QUEUE = -1
"""Stands for the axis of a queue's replicas among the numbers of axes: it is outside of the others, and splits nothing."""


def summed_axes(stored: Layouts, grid: GridShape) -> tuple[int, ...]:
    """The axes over which the gradient of a parameter is summed: those on which it is Copied, and a queue's."""
    copied = (i for i, layout in enumerate(stored) if isinstance(layout, Copied) and grid.sizes[i] > 1)
    return (*([OF_QUEUE] if grid.replicas > 1 else []), *copied)


@dataclass(frozen=True, slots=True)
class Reach:
    """Where the ranks of an axis are: `inside` of them in each of `across` nodes, and the links of both kinds.

    What is copied takes `crowding` times as long as on a core of its own; `intra` is slowed by it already.
    """

    inside: int
    across: int
    intra: Link
    inter: Link
    crowding: float = 1.0

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.inside * self.across


@functools.lru_cache(maxsize=1024)
def reaches(machine: Machine, grid: GridShape) -> tuple[Reach, ...]:
    """The reach of every axis, ranks numbered row-major and `ranks_per_node` consecutive ones in a node."""
    return tuple(reach_of(machine, grid, (axis,)) for axis in range(len(grid.sizes)))


@functools.lru_cache(maxsize=1024)
def reach_of(machine: Machine, grid: GridShape, axes: tuple[int, ...]) -> Reach:
    """The reach of the groups of ranks that differ on these axes only, of which one may be `OF_QUEUE`.

    Groups whose ranks lie unevenly in their nodes, or not alike in all groups, count as one rank per node.
    """
    sizes, at = (grid.replicas, *grid.sizes), [axis - OF_QUEUE for axis in axes]
    nodes = (np.arange(math.prod(sizes)) // machine.ranks_per_node).reshape(sizes)
    size = math.prod(sizes[axis] for axis in at)
    groups = np.moveaxis(nodes, at, range(-len(at), 0)).reshape(-1, size)
    counts = {tuple(np.unique(group, return_counts=True)[1].tolist()) for group in groups}
    even = len(counts) == 1 and len(set(next(iter(counts)))) == 1
    inside = next(iter(counts))[0] if even else 1
    crowded = crowding(machine, grid)
    intra = Link(machine.intra.alpha * crowded, machine.intra.beta / crowded)
    return Reach(inside, size // inside, intra, machine.inter, crowded)


def rounds(ranks: int) -> int:
    """L = ceil(log2 p)."""
    return (ranks - 1).bit_length()


def ring(link: Link, ranks: int, whole: Bytes) -> Bytes:
    """All-gather [P]: in each of p - 1 rounds every rank passes on the part it has just got; a scatter, backwards, adds."""
    return (ranks - 1) * link.alpha + whole * ((ranks - 1) / ranks / link.beta)


def bruck_gather(link: Link, ranks: int, whole: Bytes) -> Bytes:
    """All-gather [B]: in round i every rank gets what the rank 2^i further has; halving [T] is the scatter for it."""
    return rounds(ranks) * link.alpha + whole * ((ranks - 1) / ranks / link.beta)


def doubling(link: Link, ranks: int, whole: Bytes) -> Bytes:
    """Sum by recursive doubling [T]: in round i ranks at distance 2^i exchange all they have, and add."""
    return rounds(ranks) * link.alpha + whole * (rounds(ranks) / link.beta)


def pairwise(link: Link, ranks: int, part: Bytes) -> Bytes:
    """All-to-all [T]: in round i every rank sends to the one i further, and gets from the one i before."""
    return (ranks - 1) * link.alpha + part * ((ranks - 1) / ranks / link.beta)


def bruck_all_to_all(link: Link, ranks: int, part: Bytes) -> Bytes:
    """All-to-all [B]: in round i goes what has bit i in its distance, half of it; less where p is no power of two."""
    return rounds(ranks) * link.alpha + part * (rounds(ranks) / 2 / link.beta)


def flat(collective: Collective, link: Link, ranks: int, nbytes: Bytes) -> Bytes:
    """The cheapest algorithm that knows one kind of link."""
    if collective == "sum":
        return least(doubling(link, ranks, nbytes), 2 * flat("gather", link, ranks, nbytes))
    if collective == "all_to_all":
        return least(pairwise(link, ranks, nbytes), bruck_all_to_all(link, ranks, nbytes))
    return least(ring(link, ranks, nbytes), bruck_gather(link, ranks, nbytes))


def two_level(collective: Collective, reach: Reach, nbytes: Bytes) -> Bytes:
    """Inside the nodes and between them, each by the cheapest algorithm [K]."""
    inside, across = reach.inside, reach.across
    if collective == "all_to_all":
        return flat(collective, reach.intra, inside, nbytes) + flat(collective, reach.inter, across, nbytes)
    between = flat(collective, reach.inter, across, nbytes / inside)
    within = flat("gather", reach.intra, inside, nbytes)
    return between + (2 * within if collective == "sum" else within)


def seconds(collective: Collective, reach: Reach, nbytes: Bytes) -> Bytes:
    """The cheapest way; nothing for one rank."""
    if reach.across == 1 or reach.inside == 1:
        return flat(collective, reach.intra if reach.across == 1 else reach.inter, reach.ranks, nbytes)
    cheapest = least(flat(collective, reach.inter, reach.ranks, nbytes), two_level(collective, reach, nbytes))
    if collective == "sum":
        return least(cheapest, seconds("scatter", reach, nbytes) + seconds("gather", reach, nbytes))
    return cheapest


def least(first: Bytes, second: Bytes) -> Bytes:
    """The smaller of the two, element by element."""
    if isinstance(first, np.ndarray):
        return np.minimum(first, second)
    return min(first, second)
