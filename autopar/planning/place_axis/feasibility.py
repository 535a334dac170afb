"""What is asked of a place axis, looked at before anything is priced: whether the graph can be divided so at all."""

from __future__ import annotations

from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
from autopar.partitioner.placement.problem import CallWork, PlacementProblem, TensorUse, check
from autopar.planning.place_axis.position_pins import placed_by_hand
from autopar.planning.place_axis.schedule_options import check_positions, most_segments
from autopar.planning.request import Request


def check_divisible(request: Request) -> None:
    """Raise ConfigError where a place axis has more positions than calls, or pins and bans that nothing can follow."""
    graph, positions = request.graph, request.grid.positions
    if request.grid.place is None:
        return
    check_positions(request.grid, len(graph.nodes))
    pins, bans = placed_by_hand(request.options, request.grid, graph)
    number, readers = {node.name: i for i, node in enumerate(graph.nodes)}, graph.consumers()
    tensors = tuple(
        TensorUse(name, number[node.name], tuple(number[reader.name] for reader in readers[name]), 0.0)
        for node in graph.nodes
        for name in node.outputs
        if name and readers[name]
    )
    calls = tuple(CallWork(node.name, 0.0, 0.0) for node in graph.nodes)
    everywhere, links = (PositionLimits(),) * positions, PositionLinks.uniform(positions, 0.0, 0.0)
    check(PlacementProblem(calls, tensors, (), everywhere, links, pins=pins, bans=bans), most_segments(request.options))
