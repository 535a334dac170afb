"""What all of planning reads: a graph, the grid and machine that it is planned for, and what the user asks of the plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autopar.costmodel.rank_views import alike
from autopar.ir.graph import Graph
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine
from autopar.ir.plan import Options
from autopar.ops.annotated import AnnotatedGraph
from autopar.partitioner.formulation.constraints import Constraints
from autopar.planning import baselines, pins


@dataclass(frozen=True, slots=True)
class Request:
    """One model on one grid. `stored` are the layouts, per axis, in which parameters lie whatever the options say.

    A step computes the graph once for each of its `microbatches`. Where `grid` is that of one position of a place axis, `whole` is
    the grid with it: the limit is then what all positions hold together. A plan whose step does not take `below` so many seconds is
    of no use: planning raises NotShorter as soon as it sees that there is no other. `beside` are the bytes that a position probably
    holds beside what is kept from call to call, where a plan like this one has shown it.
    """

    annotated: AnnotatedGraph
    grid: GridShape
    machine: Machine
    options: Options
    stored: Mapping[str, Sequence[str]] = field(default_factory=dict)
    microbatches: int = 1
    whole: GridShape | None = None
    below: float = math.inf
    beside: float = 0.0

    @property
    def graph(self) -> Graph:
        """The graph without what is known of its calls."""
        return self.annotated.graph

    @property
    def limit(self) -> float:
        """Bytes that a rank may hold, the one that may hold most."""
        if self.memories:
            return max(self.memories)
        if self.grid.queue is not None:  # whose replicas hold the same
            least, asked = float(min(self.machine.memories(self.grid.size))), self.options.memory
            return least if asked is None else min(least, asked)
        return float(self.machine.memory_bytes) if self.options.memory is None else self.options.memory

    @property
    def memories(self) -> tuple[float, ...]:
        """Bytes that each rank may hold, where ranks are not alike; a limit that is asked for holds for all."""
        if alike(self.machine, self.grid):
            return ()
        own, asked = self.machine.memories(self.grid.size), self.options.memory
        if asked is None:
            return tuple(map(float, own))
        classes = map(self.machine.class_of, range(self.grid.size))
        return tuple(asked if one.memory_bytes is None else min(asked, float(one.memory_bytes)) for one in classes)

    def constraints(self) -> Constraints:
        """What pins, bans, stored parameters and a fixed plan leave open. Raises ConfigError where they exclude each other."""
        pinned = pins.apply(pins.of(self.options, self.grid), self.annotated, self.grid)
        pinned = pins.stored(pinned, self.graph, self.stored)
        if self.options.plan == baselines.FREE:
            return pinned
        return baselines.narrowed(self.options.plan, self.annotated, self.grid, pinned)
