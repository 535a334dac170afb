"""Placed -> PlacementPlan, Predicted: what the plan says of a divided graph, from which its step can be simulated again."""

from __future__ import annotations

from collections.abc import Sequence

from autopar.codegen.segment_table import SegmentRow
from autopar.ir.graph import Graph, Parameter, Value
from autopar.ir.pipeline.placement_plan import DivisionPlan, EdgePlan, MessagePlan, PlacementPlan, SegmentPlan
from autopar.ir.plan import Predicted
from autopar.partitioner.placement.assignment import homes
from autopar.partitioner.placement.place import compare
from autopar.planning.candidate import Candidate, update_seconds
from autopar.planning.placing import Placed, exchange_seconds, value_bytes

_ROUNDING = 1e-9  # shares of a step that are no idle time


def placement_plan(candidate: Candidate, placed: Placed, rows: Sequence[SegmentRow]) -> PlacementPlan:
    """The record of where calls stand."""
    assert placed.grid.place is not None
    placement, task = placed.placement, placed.placement.pipeline
    messages = (
        MessagePlan(edge.source, edge.target, edge.forward, edge.backward, edge.size, edge.gradient)
        for edge in task.edges
    )
    others = (
        DivisionPlan(name, other.makespan, other.cut_bytes, other.imbalance)
        for name, other in compare(placed.problem, placed.schedule).items()
        if other is not None
    )
    return PlacementPlan(
        axis=placed.grid.place.name,
        positions=placed.grid.positions,
        microbatches=placed.problem.microbatches,
        segments=_segments(candidate, placed, rows),
        edges=_edges(candidate, rows, placed.larger),
        messages=tuple(messages),
        schedule=tuple(" ".join(map(str, actions)) for actions in placed.lists),
        makespan=placement.makespan,
        bound=placement.bound,
        cut_bytes=placement.cut_bytes,
        imbalance=placement.imbalance,
        seconds=placement.seconds,
        update=tuple(task.after(position) for position in range(task.positions)),
        bytes=tuple(float(footprint.peak) for footprint in placed.footprints),
        limits=placed.problem.positions,
        links=placed.problem.links,
        baselines=tuple(others),
    )


def _segments(candidate: Candidate, placed: Placed, rows: Sequence[SegmentRow]) -> tuple[SegmentPlan, ...]:
    task, calls = placed.placement.pipeline, dict[int, list[str]]()
    for name, segment in placed.segments.items():
        calls.setdefault(segment, []).append(name)
    parameters = [0] * len(rows)
    readers = candidate.built.graph.consumers()
    for item in candidate.built.graph.parameters:
        for segment in {placed.segments[reader.name] for reader in readers[item.value]}:
            parameters[segment] += _parameter_bytes(candidate, item)
    return tuple(
        SegmentPlan(
            row.function, row.segment.position, tuple(calls[i]), task.forward[i], task.backward[i], task.weight[i],
            float(placed.memories[i].in_flight), float(placed.memories[i].put_off), parameters[i],
        )
        for i, row in enumerate(rows)
    )  # fmt: skip


def _edges(candidate: Candidate, rows: Sequence[SegmentRow], larger: Graph | None) -> tuple[EdgePlan, ...]:
    graph, edges = candidate.built.graph, []
    for i, row in enumerate(rows):
        for held, name in zip(row.segment.writes, row.writes, strict=True):
            value = graph.values[held.value]
            readers = tuple(j for j, other in enumerate(rows) if name in other.reads)
            layouts, size = tuple(map(str, held.layouts)), value_bytes(candidate, held.value, held.layouts)
            grown = grown_dims(value, larger)
            edges.append(
                EdgePlan(name, value.shape, value.dtype, layouts, grown, value.differentiable, i, readers, size)
            )
    return tuple(edges)


def grown_dims(value: Value, larger: Graph | None) -> tuple[int, ...]:
    """The dims of a value that grow with the batch; `larger` is the graph with more rows."""
    more = larger.values[value.name].shape if larger is not None else value.shape
    return tuple(dim for dim, (n, m) in enumerate(zip(value.shape, more, strict=True)) if n != m)


def predicted(candidate: Candidate, placed: Placed, optimizer: str) -> Predicted:
    """One step: seconds of the position that works longest, waiting included, and bytes of the one that holds most."""
    placement, problem = placed.placement, placed.problem
    busiest = max(range(len(problem.positions)), key=lambda position: placement.seconds[position])
    moved = exchange_seconds(candidate)
    there = [
        call.name
        for call, position in zip(problem.calls, placement.assignment.positions, strict=True)
        if position == busiest
    ]
    communication = problem.microbatches * sum(sum(moved[name]) for name in there) / problem.positions[busiest].speed
    after = placement.pipeline.after(busiest)
    stored = _at(candidate, placed, busiest)
    spent = update_seconds(candidate.built, candidate.decision, stored, optimizer)
    update = min(after, spent / problem.positions[busiest].speed)
    idle = placement.makespan - placement.seconds[busiest]
    return Predicted(
        compute=max(0.0, placement.seconds[busiest] - after - communication),
        communication=communication,
        gradients=after - update,
        update=update,
        **{f"{kind}_bytes": size for kind, size in placed.fullest.parts.items()},
        peak_during=f"{placed.fullest.during}, which holds most",
        idle=idle if idle > placement.makespan * _ROUNDING else 0.0,
    )


def _at(candidate: Candidate, placed: Placed, position: int) -> list[Parameter]:
    """The parameters that lie on a position."""
    there = homes(placed.problem, placed.placement.assignment)
    return [item for item, at in zip(candidate.built.graph.parameters, there, strict=True) if position in at]


def _parameter_bytes(candidate: Candidate, item: Parameter) -> int:
    return value_bytes(candidate, item.value, candidate.decision.storage[item.value])
