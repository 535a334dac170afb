"""Seconds of every primitive, forward and adjoint, over one grid axis: as measured, or by formula.

A primitive of the conversion table (`autopar.ir.conversions`) moves data in two of these ways, one forward and one for its
adjoint (which primitive is the adjoint of which: Hewett and Grady, arXiv 2006.03108):

    slice       copy a part out of a local tensor             launch floor + bytes read and written / memory bandwidth
    fill        put a part into zeros                         the same
    zeros       a local tensor of zeros                       the same
    gather      all-gather     )
    scatter     reduce-scatter ) over the axis, and packing   by the cheapest algorithm for a message of alpha + n / beta
    sum         all-reduce     )                              (`collectives` has formulas and sources), one copy of what
    all_to_all                 )                              a gather, scatter or exchange packs or unpacks
    halo        m neighbours on the farther side              m alpha + n / beta

n is the whole tensor of the axis for gather, scatter and sum, one rank's part for all_to_all, the rows of one rank for
halo. Where the machine's profile has a fit f, measured over p0 ranks, it goes before the formula. On p ranks

    f(0) A(p) / A(p0) + (f(n) - f(0)) B(p) / B(p0)      A = rounds of the algorithm, B = messages of n bytes that it sends

    gather, scatter, all_to_all   A = L, B = (p-1)/p      sum   A = 2 L, B = 2 (p-1)/p      halo   A = B = 1

A sum costs at most a scatter and a gather, zeros at most what a fill does. An axis of m ranks in each of k nodes is
priced on two levels, n/m between nodes, as by `collectives.two_level`. All prices grow with n and with p, and are zero for
p = 1. The additions inside a sum are part of what is measured, and of beta.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from autopar.costmodel import collectives
from autopar.costmodel.collectives import Bytes, Collective, Reach, least
from autopar.ir.bucketing import BUCKET_BYTES
from autopar.ir.conversions import PRIMITIVES
from autopar.ir.machine import LOCAL_MOVES, Fit, Link, Machine


@dataclass(frozen=True, slots=True)
class Transfer:
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


def price(
    primitive: str, machine: Machine, reach: Reach, before: Bytes, after: Bytes
) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    """(bytes forward, bytes adjoint, seconds forward, seconds adjoint) of a primitive of the conversion table.

    `before` and `after` are the bytes of the local tensor. Both may be arrays of one shape. An axis of one rank
    converts nothing: all four are zero.
    """
    nothing = before * 0.0
    if reach.ranks == 1:
        return nothing, nothing, nothing, nothing
    most = -least(-before, -after)
    part = -most + before + after
    sizes = {"slice": part, "fill": before + after, "zeros": before, "": nothing}
    moves = PRIMITIVES[primitive].moves
    sent = [nothing if move in sizes else most for move in moves]
    ahead, back = (nothing if not move else seconds(move, machine, reach, sizes.get(move, most)) for move in moves)
    return sent[0], sent[1], ahead, back


def seconds(move: str, machine: Machine, reach: Reach, nbytes: Bytes) -> Bytes:
    """Seconds of one of the movements above over an axis of more than one rank; nothing for one."""
    if move in LOCAL_MOVES:
        return _local(move, machine, reach, nbytes)
    if reach.ranks == 1:
        return nbytes * 0.0
    if move == "sum" and machine.fits:
        apart = seconds("scatter", machine, reach, nbytes) + seconds("gather", machine, reach, nbytes)
        return least(_wire(move, machine, reach, nbytes), apart)
    return _wire(move, machine, reach, nbytes)


def _wire(move: str, machine: Machine, reach: Reach, nbytes: Bytes) -> Bytes:
    if not any(fit.move == move for fit in machine.fits):
        packed = nbytes * 0.0 if move == "sum" else _local("slice", machine, reach, nbytes)
        return collectives.seconds(_collective(move), reach, nbytes) + packed
    if reach.across == 1 or reach.inside == 1:
        return _level(move, machine, reach, "intra" if reach.across == 1 else "inter", nbytes)
    crossing = nbytes if move == "all_to_all" else nbytes * (1 / reach.inside)
    return _level(move, machine, reach, "intra", nbytes) + _level(move, machine, reach, "inter", crossing)


def halo_seconds(machine: Machine, reach: Reach, rows: float, neighbours: int = 1) -> float:
    """A rank receives `rows` bytes from up to `neighbours` ranks on each side; nothing where it needs none.

    Of the ranks in a node only the last has a neighbour in another, so that it has the link of all to itself.
    """
    if not rows or not neighbours:
        return 0.0
    by_level = []
    for place, ranks, size in (("intra", reach.inside, rows), ("inter", reach.across, rows / reach.inside)):
        link, fit = (reach.intra if place == "intra" else reach.inter), machine.fit(place, "halo")
        slowed = reach.crowding if place == "intra" else 1.0
        if ranks > 1 and fit is not None:
            by_level.append((_at(fit, 0.0) * neighbours + _at(fit, size) - _at(fit, 0.0)) * slowed)
        elif ranks > 1:
            by_level.append(neighbours * link.alpha + size / link.beta)
    return max(by_level, default=0.0)


def gradient_seconds(machine: Machine, reach: Reach, nbytes: float) -> float:
    """The sum of a gradient of so many bytes, which travels in a bucket with others; before any of it hides.

    A gradient pays for its share of a bucket, and not for a message of its own.
    """
    if reach.ranks == 1 or not nbytes:
        return 0.0
    if not any(fit.move == "gradient_sum" for fit in machine.fits):
        intra, inter = (Link(0.0, link.beta) for link in (reach.intra, reach.inter))
        return collectives.seconds("sum", Reach(reach.inside, reach.across, intra, inter), nbytes)
    size = max(nbytes, float(BUCKET_BYTES))
    return nbytes / size * seconds("gradient_sum", machine, reach, size)


def exposed(machine: Machine, reach: Reach) -> float:
    """The share of a gradient sum that does not hide behind backward."""
    if reach.across > 1 and machine.overlap_inter is not None:
        return 1.0 - machine.overlap_inter
    return 1.0 - machine.overlap


def _collective(move: str) -> Collective:
    assert move in ("gather", "scatter", "all_to_all", "sum", "gradient_sum"), move
    return "sum" if move == "gradient_sum" else move  # type: ignore[return-value]  # just checked


def _local(move: str, machine: Machine, reach: Reach, nbytes: Bytes) -> Bytes:
    if move == "zeros" and machine.fits:
        return least(_memory(move, machine, reach, nbytes), _memory("fill", machine, reach, nbytes))
    return _memory(move, machine, reach, nbytes)


def _memory(move: str, machine: Machine, reach: Reach, nbytes: Bytes) -> Bytes:
    fit = machine.fit("local", move)
    if fit is not None:
        return _at(fit, nbytes) * reach.crowding
    traffic = nbytes * (2 / machine.memory_bandwidth if move == "slice" else 1 / machine.memory_bandwidth)
    return (traffic + machine.launch_floor) * reach.crowding


def _level(move: str, machine: Machine, reach: Reach, place: str, nbytes: Bytes) -> Bytes:
    """Over the ranks of one node, or over one rank of every node."""
    ranks = reach.inside if place == "intra" else reach.across
    fit = machine.fit(place, move)
    if fit is None:
        link = reach.intra if place == "intra" else reach.inter
        packed = nbytes * 0.0 if _collective(move) == "sum" else _local("slice", machine, reach, nbytes)
        return collectives.flat(_collective(move), link, ranks, nbytes) + packed
    start = _at(fit, 0.0)
    rounds = collectives.rounds(ranks) / collectives.rounds(fit.ranks)
    share = (1 - 1 / ranks) / (1 - 1 / fit.ranks)
    slowed = reach.crowding if place == "intra" else 1.0
    return ((_at(fit, nbytes) - start) * share + start * rounds) * slowed


def _at(fit: Fit, nbytes: Bytes) -> Bytes:
    """The fit's seconds for so many bytes."""
    total = nbytes * (1 / fit.beta[0]) + fit.alpha
    for until, (before, behind) in zip(fit.until, pairwise(fit.beta), strict=True):
        total = total + (-least(-nbytes, nbytes * 0.0 - until) - until) * (1 / behind - 1 / before)
    return total
