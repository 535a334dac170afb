"""Seconds of every primitive, forward and adjoint, over one grid axis: alpha-beta formulas and memory traffic.

A message of n bytes takes alpha + n / beta seconds; p is the number of ranks of the axis, L = ceil(log2 p). Sources: R.
Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in MPICH", IJHPCA 19(1), 2005
and Hewett and Grady, arXiv 2006.03108, for which primitive is the adjoint of which. Libraries choose an
algorithm by size, so a price is the least of those that apply. The additions inside a sum are part of beta, which is
measured with sums.

    all_gather, reduce_scatter   L alpha + (p-1)/p n/beta                     Bruck; recursive halving
    all_sum                      min(L (alpha + n/beta),                      recursive doubling
                                     2 L alpha + 2 (p-1)/p n/beta)            Rabenseifner
    all_to_all                   min((p-1) alpha + (p-1)/p n/beta,            pairwise
                                     L (alpha + n/2/beta))                    Bruck
    halo                         m alpha + n/beta                             m neighbours on the farther side

n is the whole tensor of the axis for the first three, one rank's part for all_to_all, the rows of one rank for halo.
All of them grow with n and with p, and are zero for p = 1. Gathers, scatters and exchanges also pack or unpack what they
move, one copy of it. What moves inside a rank's memory (a slice, a fill with
zeros) takes the launch floor plus the bytes read and written over the memory bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autopar.costmodel.machine import Link, Machine
from autopar.layout import Copied, Layout, Partial, Replicate, Shard

Bytes = TypeVar("Bytes", float, NDArray[np.float64])  # one number of bytes, or many at once


@dataclass(frozen=True, slots=True)
class Conversion:
    """One primitive over one axis.

    bytes are those of the whole message of one rank: the tensor that is summed, gathered or scattered, the part that is
    exchanged, the halo rows. They are 0 where nothing is sent. seconds include memory traffic.
    """

    primitive: str
    axis: int
    bytes_forward: float
    bytes_adjoint: float
    seconds_forward: float
    seconds_adjoint: float

    @property
    def seconds(self) -> float:
        """Forward plus adjoint."""
        return self.seconds_forward + self.seconds_adjoint


_CELLS = {
    (Replicate, Shard): "split",
    (Replicate, Partial): "keep",
    (Replicate, Copied): "copy",
    (Shard, Replicate): "gather",
    (Shard, Shard): "all_to_all",
    (Shard, Partial): "zero_fill",
    (Shard, Copied): "all_gather",
    (Partial, Replicate): "all_sum",
    (Partial, Shard): "reduce_scatter",
    (Copied, Replicate): "once",
    (Copied, Shard): "take",
}


def primitive_of(before: Layout, after: Layout) -> str | None:
    """The primitive of this cell of the conversion table; None on its diagonal and for its two composite cells."""
    return None if before == after else _CELLS.get((type(before), type(after)))


def _least(one: Bytes, other: Bytes) -> Bytes:
    if isinstance(one, np.ndarray):
        return np.minimum(one, other)
    return min(one, other)


def _rounds(ranks: int) -> int:
    return (ranks - 1).bit_length()


def all_gather_seconds(link: Link, ranks: int, whole: Bytes) -> Bytes:
    """Every rank ends with the `whole` bytes of which each held a part; reduce_scatter costs the same, backwards."""
    return _rounds(ranks) * link.alpha + whole * ((ranks - 1) / ranks / link.beta)


def all_sum_seconds(link: Link, ranks: int, whole: Bytes) -> Bytes:
    """Every rank ends with the sum of all ranks' `whole` bytes."""
    rounds = _rounds(ranks)
    doubling = rounds * link.alpha + whole * (rounds / link.beta)
    return _least(doubling, 2 * rounds * link.alpha + whole * (2 * (ranks - 1) / ranks / link.beta))


def all_to_all_seconds(link: Link, ranks: int, part: Bytes) -> Bytes:
    """Every rank sends a p-th of its `part` bytes to each other rank."""
    rounds = _rounds(ranks)
    pairwise = (ranks - 1) * link.alpha + part * ((ranks - 1) / ranks / link.beta)
    return _least(pairwise, rounds * link.alpha + part * (rounds / 2 / link.beta))


def halo_seconds(link: Link, rows: float, neighbours: int = 1) -> float:
    """A rank receives `rows` bytes from up to `neighbours` ranks on each side; nothing where it needs none."""
    return neighbours * link.alpha + rows / link.beta if rows and neighbours else 0.0


def slice_seconds(machine: Machine, part: Bytes) -> Bytes:
    """Copy `part` bytes out of a local tensor."""
    return machine.launch_floor + part * (2 / machine.memory_bandwidth)


def fill_seconds(machine: Machine, written: Bytes) -> Bytes:
    """Read and write `written` bytes in all."""
    return machine.launch_floor + written * (1 / machine.memory_bandwidth)


def price(
    primitive: str, machine: Machine, link: Link, ranks: int, before: Bytes, after: Bytes
) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    """(bytes forward, bytes adjoint, seconds forward, seconds adjoint) of a primitive of the conversion table.

    `before` and `after` are the bytes of the local tensor. Both may be arrays of one shape. An axis of one rank
    converts nothing: all four are zero.
    """
    nothing = before * 0.0
    if ranks == 1:
        return nothing, nothing, nothing, nothing
    if primitive in ("gather", "all_gather", "split", "reduce_scatter"):
        whole = after if primitive in ("gather", "all_gather") else before
        part = before if primitive in ("gather", "all_gather") else after
        wire = all_gather_seconds(link, ranks, whole) + slice_seconds(machine, whole)
        if primitive == "split":
            return nothing, whole, slice_seconds(machine, part), wire
        if primitive == "gather":
            return whole, nothing, wire, slice_seconds(machine, part)
        return whole, whole, wire, wire
    if primitive in ("all_sum", "copy"):
        wire = all_sum_seconds(link, ranks, before)
        return (before, nothing, wire, nothing) if primitive == "all_sum" else (nothing, before, nothing, wire)
    if primitive in ("keep", "once"):
        zeros = fill_seconds(machine, before)
        return (nothing, nothing, zeros, nothing) if primitive == "keep" else (nothing, nothing, nothing, zeros)
    if primitive == "take":
        return nothing, nothing, slice_seconds(machine, after), fill_seconds(machine, before + after)
    if primitive == "zero_fill":
        return nothing, nothing, fill_seconds(machine, before + after), slice_seconds(machine, before)
    assert primitive == "all_to_all", primitive
    most = -_least(-before, -after)
    wire = all_to_all_seconds(link, ranks, most) + slice_seconds(machine, most)
    return most, most, wire, wire
