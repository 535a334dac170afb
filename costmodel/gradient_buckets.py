"""Gradient sums as the runtime makes them: in buckets, which start while backward runs.

Which gradients share a bucket says `autopar.ir.bucketing`. As in `autopar.runtime.parameters.gradient_buckets`, each has one
flag per parameter behind the gradients, and one starts only after the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopar.costmodel import communication
from autopar.costmodel.collectives import reach_of
from autopar.ir import bucketing
from autopar.ir.graph import ITEMSIZE
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine, crowding

_STEPS = 3  # small operations per gradient: autograd accumulates it, a hook is called, the hook copies it


@dataclass(frozen=True, slots=True)
class Gradient:
    """The gradient of one parameter on one rank: the `axes` it is summed over, its bytes, and when it is there.

    `done` is the place in backward after which the parameter's addend is complete.
    """

    name: str
    axes: tuple[int, ...]
    dtype: str
    nbytes: int
    done: int


@dataclass(frozen=True, slots=True)
class SumBucket:
    """Gradients that are summed in one go, flags included; `done` is the place in backward after which it starts."""

    axes: tuple[int, ...]
    nbytes: int
    members: tuple[str, ...]
    done: int


def fill(gradients: Sequence[Gradient], limit: int = bucketing.BUCKET_BYTES) -> tuple[SumBucket, ...]:
    """The buckets, in the order in which they start; `gradients` are in order of the parameters."""
    kinds = [(gradient.axes, gradient.dtype) if gradient.axes else None for gradient in gradients]
    filled: list[SumBucket] = []
    for indices in bucketing.buckets(kinds, [gradient.nbytes for gradient in gradients], limit):
        members = [gradients[i] for i in indices]
        size = sum(gradient.nbytes + ITEMSIZE[gradient.dtype] for gradient in members)
        done = max([gradient.done for gradient in members] + [bucket.done for bucket in filled[-1:]])
        filled.append(SumBucket(members[0].axes, size, tuple(gradient.name for gradient in members), done))
    return tuple(filled)


def seconds(bucket: SumBucket, grid: GridShape, machine: Machine) -> tuple[float, float]:
    """(on the compute lane, on the communication lane): what the ranks fill and sum themselves, and what goes on behind backward.

    A bucket is one message. Where the profile has measured such sums (filling included), they are taken, and sums in general
    otherwise.
    """
    reach = reach_of(machine, grid, bucket.axes)
    measured = any(fit.move == "gradient_sum" for fit in machine.fits)
    total = communication.seconds("gradient_sum" if measured else "sum", machine, reach, float(bucket.nbytes))
    share = communication.exposed(machine, reach)
    return total * share + len(bucket.members) * filling(grid, machine), total * (1 - share)


def filling(grid: GridShape, machine: Machine) -> float:
    """Seconds that it takes one gradient to get into its bucket beside its bytes."""
    return _STEPS * machine.launch_floor * crowding(machine, grid)


def shared(bucket: SumBucket, axes: tuple[int, ...], grid: GridShape, machine: Machine) -> bool:
    """Whether an exchange over `axes` takes a link that the bucket's hidden sum takes too."""
    reach, other = reach_of(machine, grid, bucket.axes), reach_of(machine, grid, axes)
    inside, across = reach.inside > 1 and other.inside > 1, reach.across > 1 and other.across > 1
    return communication.exposed(machine, reach) < 1 and (inside or across)
