"""Gradient sums as the runtime makes them: in buckets, which start while backward runs.

The rule is that of `autopar.runtime.parameters.gradient_buckets`: parameters in reverse order; those of one dtype that are
summed over the same axes fill buckets of 4 MiB (a larger gradient has one of its own), each with one flag per parameter behind
the gradients; the buckets are in order of the last parameter in each, and one starts only after the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopar.costmodel import communication
from autopar.costmodel.collectives import reach_of
from autopar.ir.graph import ITEMSIZE
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine, crowding

BUCKET_BYTES = 4 << 20
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
class Bucket:
    """Gradients that are summed in one go, flags included; `done` is the place in backward after which it starts."""

    axes: tuple[int, ...]
    nbytes: int
    members: tuple[str, ...]
    done: int


def fill(gradients: Sequence[Gradient], limit: int = BUCKET_BYTES) -> tuple[Bucket, ...]:
    """The buckets, in the order in which they start; `gradients` are in order of the parameters."""
    groups: dict[tuple[tuple[int, ...], str], list[list[Gradient]]] = {}
    order = [one for one in reversed(gradients) if one.axes]
    for one in order:
        several = groups.setdefault((one.axes, one.dtype), [])
        if not several or sum(other.nbytes for other in several[-1]) + one.nbytes > limit:
            several.append([])
        several[-1].append(one)
    place = {one.name: i for i, one in enumerate(order)}
    found: list[Bucket] = []
    filled = [members for several in groups.values() for members in several]
    for members in sorted(filled, key=lambda members: place[members[-1].name]):
        first = members[0]
        size = sum(one.nbytes for one in members) + len(members) * ITEMSIZE[first.dtype]
        done = max([one.done for one in members] + [one.done for one in found[-1:]])
        found.append(Bucket(first.axes, size, tuple(one.name for one in members), done))
    return tuple(found)


def seconds(bucket: Bucket, grid: GridShape, machine: Machine) -> tuple[float, float]:
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


def shared(bucket: Bucket, axes: tuple[int, ...], grid: GridShape, machine: Machine) -> bool:
    """Whether an exchange over `axes` takes a link that the bucket's hidden sum takes too."""
    one, other = reach_of(machine, grid, bucket.axes), reach_of(machine, grid, axes)
    inside, across = one.inside > 1 and other.inside > 1, one.across > 1 and other.across > 1
    return communication.exposed(machine, one) < 1 and (inside or across)
