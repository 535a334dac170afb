"""Candidate -> Candidate whose graph is divided over the positions of a place axis, with a schedule of actions.

The candidate's letters are those of one position's own grid. What its calls, conversions and parameters take and hold is what
`autopar.partitioner.placement` places; the steps are then lowered once more, segment by segment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from autopar.codegen.division import GraphDivision
from autopar.codegen.lower import lower
from autopar.costmodel.compute import parameter_seconds
from autopar.costmodel.local_shapes import local_bytes
from autopar.costmodel.memory import optimizer_copies
from autopar.errors import InfeasiblePlan, refusal
from autopar.ir.graph import ITEMSIZE, Graph, Parameter
from autopar.ir.grid import GridShape
from autopar.ir.layout import Layouts
from autopar.ir.machine import Machine
from autopar.ir.pipeline.schedule import ActionLists
from autopar.ir.pipeline.schedule_check import SegmentGraph, ValueEdge, check_schedule
from autopar.ir.plan import Options
from autopar.ir.units import bytes_precisely
from autopar.partitioner.formulation.priced_problem import inputs_bytes
from autopar.partitioner.formulation.strategies import result_layouts
from autopar.partitioner.placement.bounds import placement_bound
from autopar.partitioner.placement.place import Placement
from autopar.partitioner.placement.problem import CallWork, ParameterUse, PlacementProblem, TensorUse
from autopar.partitioner.problem import NotShorter
from autopar.partitioner.schedules.position_memory import SegmentMemory
from autopar.planning.candidate import Candidate, conversion_plans
from autopar.planning.place_axis.position_footprints import (
    PositionFootprint,
    position_footprints,
    segment_memories,
)
from autopar.planning.place_axis.position_limits import (
    machine_of_all,
    memory_of_all,
    position_limits,
    position_links,
)
from autopar.planning.place_axis.position_pins import letter_pins, placed_by_hand
from autopar.planning.place_axis.segments_each import shortest
from autopar.planning.planner import planned
from autopar.planning.request import Request
from autopar.progress import Progress, timed

_SHRUNK = (1.0, 0.8, 0.6, 0.4)
"""Of the memory of all positions together, what the letters may be chosen for: they hold no more than their share of it."""
_TRIES = 4  # of places, each with less room than the one before
_DEFERRABLE = ("linear", "affine", "matmul", "conv")  # operators that `autopar.runtime.pipeline.deferred_weights` sees


@dataclass(frozen=True, slots=True)
class Placed:
    """Where calls stand, who does what when, and what that comes to.

    `schedule` is the one that was asked for, `beside` the room that was left for what is not kept from call to call. `larger` is
    the graph that was planned, with more rows, where there is one. `memories` are those of segments, `footprints` of positions.
    """

    grid: GridShape
    machine: Machine
    larger: Graph | None
    problem: PlacementProblem
    placement: Placement
    schedule: str
    beside: float
    memories: tuple[SegmentMemory, ...] = ()
    footprints: tuple[PositionFootprint, ...] = ()

    @property
    def segments(self) -> dict[str, int]:
        """The segment of every call."""
        names = (call.name for call in self.problem.calls)
        return dict(zip(names, self.placement.assignment.segment, strict=True))

    @property
    def fullest(self) -> PositionFootprint:
        """Of the position that holds most."""
        return max(self.footprints, key=lambda footprint: footprint.peak)

    @property
    def lists(self) -> ActionLists:
        """The actions of every position."""
        return self.placement.schedule


def divided(request: Request, tell: Progress) -> tuple[Candidate, Placed]:
    """The plan for a grid with a place axis. Raises InfeasiblePlan where no position can hold what it would have to.

    Some position works no shorter than all of them would together, so that the letters say early what no step is shorter than.
    """
    speed = sum(limits.speed for limits in position_limits(request, 0.0))
    machine, memory = machine_of_all(request), memory_of_all(request)
    own = replace(request, grid=request.grid.space, whole=request.grid, machine=machine, below=request.below * speed)
    refused: InfeasiblePlan | None = None
    for share in _SHRUNK:
        options = _of_letters(request.options, memory * share)
        try:
            candidate = planned(replace(own, options=options), tell)
        except NotShorter as whole:
            raise NotShorter(whole.seconds / speed) from None
        except InfeasiblePlan as error:
            raise refused or error from None
        try:
            return _placed(candidate, request, tell)
        except InfeasiblePlan as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _of_letters(options: Options, memory: float) -> Options:
    """The options of a plan that chooses letters, under this limit."""
    pins, bans = letter_pins(options.pins), letter_pins(options.bans)
    return replace(options, memory=memory, pins=pins, bans=bans)


def _placed(candidate: Candidate, request: Request, tell: Progress) -> tuple[Candidate, Placed]:
    """The division whose walked peak meets the limit on every position.

    While places are sought, memory is what is kept from call to call: what is held beside that is found by the walk, and room is
    left for it when they are sought again. Raises InfeasiblePlan.
    """
    problem, found = placement_problem(candidate, request), list[Placed]()
    least = float(sum(inputs_bytes(candidate.built, candidate.decision).values()))
    beside = max(request.beside, least)
    for _ in range(_TRIES):
        try:
            carried_out, placed = _division(candidate, problem, beside, request, tell)
        except InfeasiblePlan:
            if found:
                break
            if beside == least:
                raise
            beside = least  # what such a plan held was too much to leave room for
            continue
        found.append(placed)
        if _over(placed, request)[0] <= 0:
            return carried_out, placed
        kept = zip(placed.footprints, placed.placement.memory, _limits(request), strict=True)
        beside = max(held.peak - size for held, size, limit in kept if held.peak > limit)
    raise _too_full(request, min((_over(one, request) for one in found), key=lambda one: one[0]))


def _over(placed: Placed, request: Request) -> tuple[float, PositionFootprint]:
    """By how much a position holds more than it may, and what it holds: of the one that misses its limit by most."""
    pairs = zip(placed.footprints, _limits(request), strict=True)
    return max(((held.peak - limit, held) for held, limit in pairs), key=lambda one: one[0])


def _limits(request: Request) -> list[float]:
    """The memory of a rank of every position."""
    return [limits.memory or 0.0 for limits in position_limits(request, 0.0)]


def _too_full(request: Request, missed: tuple[float, PositionFootprint]) -> InfeasiblePlan:
    where, (over, least) = f"{request.graph.name} on grid {request.grid}", missed
    limit = bytes_precisely(least.peak - over)
    given = f"{bytes_precisely(least.peak, up=True)} in {least.during}, and the limit is {limit}"
    rule = "all that a rank of a position holds in a step fits the limit at every time"
    fix = f"raise --memory to {bytes_precisely(least.peak, up=True)}, or use more --microbatches or positions"
    return InfeasiblePlan(refusal(where, given, rule, fix=fix))


def _division(
    candidate: Candidate, problem: PlacementProblem, beside: float, request: Request, tell: Progress
) -> tuple[Candidate, Placed]:
    problem = replace(problem, positions=position_limits(request, beside))
    with timed(tell, "placed") as said:
        if (bound := placement_bound(problem)) >= request.below:
            raise NotShorter(bound)
        larger = request.annotated.larger
        placement = shortest(candidate, problem, request.options, request.below)
        more = larger.graph if larger else None
        found = Placed(request.grid, request.machine, more, problem, placement, request.options.schedule, beside)
        most = f"{placement.imbalance:.2f} x the mean at most"
        said(
            f"{len(placement.assignment.position)} segments on {request.grid.positions} positions, {most}, gap {placement.gap:.1%}"
        )
    return _carried_out(candidate, found, request.options.optimizer)


def _carried_out(candidate: Candidate, placed: Placed, optimizer: str) -> tuple[Candidate, Placed]:
    """The steps in segments, their lists proved, and what they hold."""
    built, decision, division = candidate.built, candidate.decision, placed.placement.assignment
    program = lower(built, decision, GraphDivision(placed.segments, division.position))
    check_schedule(segment_graph(candidate, placed), placed.lists)
    weights = trained_weights(candidate)
    memories = segment_memories(built, decision, program, placed.placement, weights)
    footprints = position_footprints(built, decision, program, placed.problem, placed.placement, memories, optimizer)
    parts = replace(candidate.parts, conversions=conversion_plans(built, program))
    return replace(candidate, program=program, parts=parts), replace(placed, memories=memories, footprints=footprints)


def segment_graph(candidate: Candidate, placed: Placed) -> SegmentGraph:
    """What the lists must be right for: every value that one segment makes and another reads."""
    graph, segments = candidate.built.graph, placed.segments
    readers = graph.consumers()
    edges = {
        (name, segments[node.name], segments[reader.name]): graph.values[name].differentiable
        for node in graph.nodes
        for name in node.outputs
        if name
        for reader in readers[name]
        if segments[reader.name] != segments[node.name]
    }
    crossing = tuple(ValueEdge(*key, gradient) for key, gradient in edges.items())
    position = placed.placement.assignment.position
    return SegmentGraph(placed.grid.positions, placed.problem.microbatches, position, crossing)


def placement_problem(candidate: Candidate, request: Request) -> PlacementProblem:
    """What is placed: seconds and bytes of every call, tensor and parameter of a candidate, per rank of a position."""
    built = candidate.built
    graph = built.graph
    number = {node.name: i for i, node in enumerate(graph.nodes)}
    tensors = []
    readers = graph.consumers()
    for node in graph.nodes:
        for i, name in enumerate(node.outputs):
            if name and readers[name]:
                size = value_bytes(candidate, name, result_layouts(candidate.decision.strategies[node.name], i))
                reading = tuple(number[reader.name] for reader in readers[name])
                gradient = size if graph.values[name].differentiable else 0.0
                tensors.append(TensorUse(name, number[node.name], reading, size, gradient))
    parameters = []
    for item in graph.parameters:
        reading = tuple(number[reader.name] for reader in readers[item.value])
        parameters.append(_parameter(candidate, item, reading, request.options.optimizer))
    pins, bans = placed_by_hand(request.options, request.grid, graph)
    return PlacementProblem(
        calls=tuple(_calls(candidate)),
        tensors=tuple(tensors),
        parameters=tuple(parameters),
        positions=position_limits(request, sum(inputs_bytes(candidate.built, candidate.decision).values())),
        links=position_links(request.machine, request.grid),
        microbatches=request.microbatches,
        pins=pins,
        bans=bans,
    )


def _calls(candidate: Candidate) -> Iterable[CallWork]:
    """Every call with what is exchanged for it, of one micro-batch."""
    moved, often = exchange_seconds(candidate), candidate.built.microbatches
    weights = trained_weights(candidate)
    for node in candidate.parts.nodes:
        ahead, back = moved[node.name]
        forward, backward = node.seconds_forward / often, node.seconds_backward / often
        weight = weights.get(node.name, 0.0) * backward
        held = node.saved_bytes + _result_bytes(candidate, node.name) if weight else 0.0
        yield CallWork(node.name, ahead + forward, back + backward, weight, node.saved_bytes, held)


def trained_weights(candidate: Candidate) -> dict[str, float]:
    """The calls whose weight gradients can be an action of their own, and these gradients' share of backward.

    Products and convolutions with a trained parameter, whole windows: what the runtime sees (`autopar.runtime.pipeline`). The
    gradients of the two operands take as long as each other; that of an input that needs none takes nothing.
    """
    built = candidate.built
    trained = {item.value for item in built.graph.parameters if item.kind == "parameter"}
    exchanging = {node.name for node in candidate.parts.nodes if node.inner}
    shares: dict[str, float] = {}
    for node in built.graph.nodes:
        inputs = node.inputs
        if built.calls[node.name].op.name in _DEFERRABLE and node.name not in exchanging and trained & {*inputs[1:2]}:
            others = [built.graph.values[name] for name in inputs if name not in trained]
            shares[node.name] = 0.5 if any(value.differentiable for value in others) else 1.0
    return shares


def _result_bytes(candidate: Candidate, name: str) -> float:
    """Bytes of the gradients of a call's results, as the call makes them."""
    strategy, item = candidate.decision.strategies[name], candidate.built.calls[name]
    outputs = enumerate(item.node.outputs)
    return sum(value_bytes(candidate, value, result_layouts(strategy, i)) for i, value in outputs if value)


def exchange_seconds(candidate: Candidate) -> dict[str, tuple[float, float]]:
    """Per call the seconds of one micro-batch, forward and back, of what is converted for it and of what it exchanges inside."""
    moved: dict[str, tuple[float, float]] = {}
    for one in candidate.parts.conversions:
        for name in one.consumers:
            ahead, back = moved.get(name, (0.0, 0.0))
            moved[name] = ahead + one.seconds_forward, back + one.seconds_adjoint
    first = {
        node.name: block.name
        for repeat in candidate.built.repeats
        for nodes in repeat.nodes
        for node, block in zip(nodes, repeat.nodes[0], strict=True)
    }
    found, often = {}, candidate.built.microbatches
    for node in candidate.parts.nodes:
        ahead, back = moved.get(first.get(node.name, node.name), (0.0, 0.0))
        inside = sum(one.seconds_forward for one in node.inner), sum(one.seconds_adjoint for one in node.inner)
        found[node.name] = ahead + inside[0] / often, back + inside[1] / often
    return found


def _parameter(candidate: Candidate, item: Parameter, readers: tuple[int, ...], optimizer: str) -> ParameterUse:
    built = candidate.built
    value, stored = built.graph.values[item.value], candidate.decision.storage[item.value]
    size = value_bytes(candidate, item.value, stored)
    sums, update = parameter_seconds(value, item.kind, stored, optimizer, built.grid, built.machine)
    trained = item.kind == "parameter"
    held = size * (2 + optimizer_copies(optimizer)) if trained else size
    return ParameterUse(item.name, held, readers, size if trained else 0.0, sums + update)


def value_bytes(candidate: Candidate, name: str, layouts: Layouts) -> int:
    """The bytes of a rank's part of a value that lies so."""
    value = candidate.built.graph.values[name]
    return local_bytes(value.shape, ITEMSIZE[value.dtype], layouts, candidate.built.grid)
