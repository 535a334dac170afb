"""By how much a step is longer in the mean where something stops ranks now and then (`Machine.stalls`).

A stall of one rank holds up all that wait for it. Between two exchanges of a group of ranks it is the unluckiest that counts,

    E [ max over ranks of the stalls between the two ],

and so few large parts are hit harder than their mean says, and many exchanges by the stalls of all ranks in turn. Replicas that
draw micro-batches from a queue share what stalls cost: a step is longer by the mean, and by what one micro-batch and one stall
leave uneven at the end. Both are estimated by steps with drawn stalls, always the same ones, a Poisson number of them for each
call; of a graph that is divided over positions only the mean is taken, which is the least that it can be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopar.costmodel import step_schedule
from autopar.costmodel.rank_views import rounds
from autopar.costmodel.timeline import Task, simulate
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine
from autopar.planning.stalls.queue_timeline import drawn, one_microbatch

_SAMPLES = 2048  # steps of ranks that exchange, and micro-batches of a replica
_QUEUES = 256  # steps of a queue
_SEED = 20261130

Samples = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Stalls:
    """How often a second of computing, for how long, and where they are drawn."""

    rate: float
    seconds: float
    draw: np.random.Generator

    def added(self, spent: Samples) -> Samples:
        """So many seconds of computing, stalls included."""
        return spent + self.draw.poisson(self.rate * spent) * self.seconds

    def ends(self, tasks: Sequence[Task], sizes: Sequence[int], speeds: Sequence[float]) -> Samples:
        """When the last rank of a grid has carried out the tasks, over and over."""
        clock = np.zeros((_SAMPLES, *sizes))
        wire, slowness = clock, 1.0 / np.array(speeds).reshape(tuple(sizes))
        for task in tasks:
            axes = tuple(axis + 1 for axis in task.axes)
            if task.kind == "gradients":
                clock = _last(clock, axes) + task.seconds
                wire = _last(np.maximum(clock, wire), axes) + task.hidden
            elif axes or task.kind == "communication":
                clock = _last(clock, axes) + task.seconds
            else:
                clock = np.maximum(clock, wire) if task.kind == "update" else clock
                parts = np.array(task.ranks).reshape(tuple(sizes)) if task.ranks else slowness
                clock = clock + self.added(np.broadcast_to(task.seconds * parts, clock.shape))
        ends: Samples = np.maximum(clock, wire).reshape(_SAMPLES, -1).max(axis=1)
        return ends


def _last(clock: Samples, axes: tuple[int, ...]) -> Samples:
    return np.broadcast_to(clock.max(axis=axes, keepdims=True), clock.shape) if axes else clock


def stalls_of_step(parts: step_schedule.Parts, microbatches: int) -> float:
    """By how much stalls make a step of a plan longer in the mean."""
    return stalled_seconds(step_schedule.tasks(parts), parts.grid, parts.machine, microbatches)


def stalled_seconds(tasks: Sequence[Task], grid: GridShape, machine: Machine, microbatches: int = 1) -> float:
    """By how much stalls make a step of these tasks longer in the mean."""
    rate, seconds = machine.stalls
    if not rate or not seconds:
        return 0.0
    stalls = _Stalls(rate, seconds, np.random.default_rng(_SEED))
    if grid.queue is not None:
        return _drawn(tasks, grid, machine, microbatches, stalls)
    plain = simulate(tasks, grid.sizes, watch=()).seconds
    speeds = (1.0,) * math.prod(grid.sizes)  # what makes ranks differ is in their shares of the tasks
    return max(0.0, float(stalls.ends(tasks, grid.sizes, speeds).mean()) - plain)


def least_stalled_seconds(seconds: float, machine: Machine) -> float:
    """What stalls add to so many seconds of one rank in the mean."""
    return seconds * math.prod(machine.stalls)


def _drawn(tasks: Sequence[Task], grid: GridShape, machine: Machine, microbatches: int, stalls: _Stalls) -> float:
    """The same of a queue, whose replicas draw micro-batches of which many were tried."""
    often, size, speeds = rounds(machine, grid, microbatches), math.prod(grid.sizes), machine.speeds(grid.size)
    one = one_microbatch(tasks, often)
    tried = [
        stalls.ends(one, grid.sizes, speeds[replica * size : (replica + 1) * size]) for replica in range(grid.replicas)
    ]
    ends = [
        drawn(microbatches, [stalls.draw.choice(pool, microbatches).tolist() for pool in tried]).end
        for _ in range(_QUEUES)
    ]
    update = [task for task in tasks if task.kind == "update"]
    behind = stalls.ends(update, (grid.size,), (1.0,) * grid.size).mean() - sum(task.seconds for task in update)
    return max(0.0, float(np.mean(ends)) - often * simulate(one, grid.sizes, watch=()).seconds + float(behind))
