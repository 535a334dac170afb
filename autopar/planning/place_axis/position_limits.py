"""What the ranks of a position make of it: a position is as fast as its slowest rank, and holds what its smallest can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autopar.ir.grid import GridShape
from autopar.ir.machine import Link, Machine, linked
from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
from autopar.planning.request import Request


def position_limits(request: Request, inputs: float) -> tuple[PositionLimits, ...]:
    """Speed and memory of every position, whose ranks all hold `inputs` bytes."""
    grid, each = request.grid, request.grid.space.size
    speeds = request.machine.speeds(grid.size)
    memories = request.memories or (request.limit,) * grid.size
    return tuple(
        PositionLimits(min(speeds[first : first + each]), max(0.0, min(memories[first : first + each]) - inputs))
        for first in range(0, grid.size, each)
    )


def memory_of_all(request: Request) -> float:
    """Bytes that the ranks of one index on all positions may hold together."""
    return sum(limits.memory or 0.0 for limits in position_limits(request, 0.0))


def machine_of_all(request: Request) -> Machine:
    """The machine of which every position is said to be: ranks of speed 1, with the worst links of any."""
    return replace(linked(request.machine, request.grid.size), ranks=())


def position_links(machine: Machine, grid: GridShape) -> PositionLinks:
    """Between the ranks of two positions: inside a node, or across; the worse link of the two where they have their own."""
    each = grid.space.size
    nodes = [position * each // machine.ranks_per_node for position in range(grid.positions)]
    ranks = [range(position * each, (position + 1) * each) for position in range(grid.positions)]
    links = [
        [
            _worst_link(machine, nodes[one] == nodes[other], [*ranks[one], *ranks[other]])
            for other in range(grid.positions)
        ]
        for one in range(grid.positions)
    ]
    return PositionLinks(
        tuple(tuple(link.alpha for link in row) for row in links),
        tuple(tuple(1.0 / link.beta for link in row) for row in links),
    )


def _worst_link(machine: Machine, inside: bool, ranks: Sequence[int]) -> Link:
    """The worst link of these ranks, inside of a node or between nodes."""
    plain = machine.intra if inside else machine.inter
    every = [(one.intra if inside else one.inter) or plain for one in map(machine.class_of, ranks)]
    return Link(max(link.alpha for link in every), min(link.beta for link in every))
