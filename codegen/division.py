"""A graph divided into segments, and the segments on the positions of a place axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from autopar.ir.graph import Graph
from autopar.partitioner.formulation.priced_problem import PricedProblem


@dataclass(frozen=True, slots=True)
class GraphDivision:
    """The segment of every call, and the position of every segment.

    Segments are numbered such that none reads from a later one.
    """

    segments: Mapping[str, int]
    positions: tuple[int, ...]

    def crossing(self, graph: Graph, segment: int) -> tuple[str, ...]:
        """The values that a segment makes and others read, in order."""
        segments, readers = self.segments, graph.consumers()
        values = [name for node in graph.nodes if segments[node.name] == segment for name in node.outputs if name]
        return tuple(name for name in values if any(segments[node.name] != segment for node in readers[name]))

    def draws(self, built: PricedProblem) -> Iterator[tuple[int, ...]]:
        """Per segment the numbers of its random calls, counted over the whole graph as it draws undivided."""
        calls = [built.calls[node.name] for node in built.graph.nodes]
        random = [item.node.name for item in calls if item.op.draws(item.call)]
        for segment in range(len(self.positions)):
            yield tuple(i for i, name in enumerate(random) if self.segments[name] == segment)
