"""Candidate -> Candidate whose graph is divided over the positions of a place axis, with a schedule of actions.

The candidate's letters are those of one position's own grid. What its calls, conversions and parameters take and hold is what
`autopar.partitioner.placement` places; the steps are then lowered once more, segment by segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from autopar.codegen.division import GraphDivision
from autopar.codegen.lower import lower
from autopar.costmodel.compute import parameter_seconds
from autopar.costmodel.local_shapes import local_bytes
from autopar.costmodel.memory import optimizer_copies
from autopar.errors import ConfigError, InfeasiblePlan, refusal
from autopar.ir.graph import ITEMSIZE, Graph, Parameter
from autopar.ir.grid import GridShape
from autopar.ir.layout import Layouts
from autopar.ir.machine import Machine
from autopar.ir.pipeline.schedule import ActionLists
from autopar.ir.pipeline.schedule_check import SegmentGraph, ValueEdge, check_schedule
from autopar.ir.plan import Options
from autopar.ir.units import bytes_precisely
from autopar.partitioner.formulation.strategies import result_layouts
from autopar.partitioner.placement.bounds import placement_bound
from autopar.partitioner.placement.coarsening import expanded, merged
from autopar.partitioner.placement.judging import Judge
from autopar.partitioner.placement.place import Placement, compare, described, place
from autopar.partitioner.placement.problem import CallWork, ParameterUse, PlacementProblem, TensorUse
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
from autopar.planning.place_axis.schedule_options import AUTO, most_segments
from autopar.planning.planner import planned
from autopar.planning.request import NotShorter, Request
from autopar.progress import Progress, timed

_SHRUNK = (1.0, 0.8, 0.6, 0.4)
"""Of the memory of all positions together, what the letters may be chosen for: they hold no more than their share of it."""
_TRIES = 4  # of places, each with less room than the one before
_BLOCKS_EACH = 2  # things to place per segment, from which on whole blocks are tried
_CLOSE = 0.05  # to the bound: cuts inside of blocks are not sought
_CLEARLY = 0.05  # shorter with cuts inside of blocks
_SEGMENTS = (1, 2, 4)  # a position, which are tried
_PAYS = 0.01  # of a step, that more segments have to save
_ACTION = 1e-4  # seconds of the runtime's own to carry out an action, which no call's price has
_MOST_CALLS = 400  # that are placed one by one where whole blocks can be
_SECONDS = 60.0  # of a search: less would make the answer one of the machine's speed
_DEFERRABLE = ("linear", "affine", "matmul", "conv")  # operators that `autopar.runtime.pipeline.deferred_weights` sees


@dataclass(frozen=True, slots=True)
class Placed:
    """Where calls stand, who does what when, what that comes to, and the same of plainer ways to divide the graph.

    `larger` is the graph that was planned, with more rows, where there is one. `memories` are those of segments, `footprints` of
    positions.
    """

    grid: GridShape
    machine: Machine
    larger: Graph | None
    problem: PlacementProblem
    placement: Placement
    baselines: Mapping[str, Placement | None]
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
    problem, beside, found = placement_problem(candidate, request), float(_inputs(candidate)), list[Placed]()
    for _ in range(_TRIES):
        rooms = position_limits(request, beside)
        try:
            carried_out, placed = _division(candidate, replace(problem, positions=rooms), request, tell)
        except InfeasiblePlan:
            if not found:
                raise
            break
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
    candidate: Candidate, problem: PlacementProblem, request: Request, tell: Progress
) -> tuple[Candidate, Placed]:
    with timed(tell, "placed") as said:
        if (bound := placement_bound(problem)) >= request.below:
            raise NotShorter(bound)
        schedule, larger = request.options.schedule, request.annotated.larger
        placement = _shortest(candidate, problem, request.options)
        more = larger.graph if larger else None
        found = Placed(request.grid, request.machine, more, problem, placement, compare(problem, schedule))
        most = f"{placement.imbalance:.2f} x the mean at most"
        said(
            f"{len(placement.assignment.position)} segments on {request.grid.positions} positions, {most}, gap {placement.gap:.1%}"
        )
    return _carried_out(candidate, found, request.options.optimizer)


def _shortest(candidate: Candidate, problem: PlacementProblem, options: Options) -> Placement:
    """As many segments a position as are asked for; otherwise one, or 2 or 4 where that is clearly shorter or memory needs it."""
    if options.segments is not None or options.schedule != AUTO:
        return _best(candidate, problem, most_segments(options), options.schedule)
    best: Placement | None = None
    refused: InfeasiblePlan | None = None
    for segments in _SEGMENTS:
        least = placement_bound(problem) + 2 * problem.microbatches * segments * _ACTION
        if best is not None and (least > _with_actions(best) * (1 - _PAYS) or len(problem.calls) > _MOST_CALLS):
            break
        try:
            found = _best(candidate, problem, segments, options.schedule)
        except InfeasiblePlan as error:
            refused = refused or error
            continue
        if best is not None and _with_actions(found) > _with_actions(best) * (1 - _PAYS):
            break
        best = found
    if best is None:
        assert refused is not None, "one segment a position is tried first"
        raise refused
    return best


def _with_actions(placement: Placement) -> float:
    """The makespan, and what it takes to begin the actions of the position that has most of them."""
    return placement.makespan + _ACTION * max(map(len, placement.schedule))


def _best(candidate: Candidate, problem: PlacementProblem, segments: int, schedule: str) -> Placement:
    """Of repeated blocks whole ones where there are enough, or calls one by one where that is clearly shorter.

    Whole blocks are placed in a fraction of the time, and are one function of the program for all positions.
    """
    judge, bound = Judge(problem, schedule), placement_bound(problem)

    def placed(parts: list[list[int]]) -> Placement:
        found = place(merged(problem, parts), segments_per_position=segments, schedule=schedule, time_limit=_SECONDS)
        return described(problem, expanded(problem, parts, found.assignment), judge, bound)

    whole: Placement | None = None
    blocks, calls = _parts(candidate, whole_blocks=True), _parts(candidate, whole_blocks=False)
    if len(blocks) < len(calls) and len(blocks) >= _BLOCKS_EACH * segments * len(problem.positions):
        with suppress(InfeasiblePlan, ConfigError):
            whole = placed(blocks)
    if whole is not None and (whole.gap <= _CLOSE or len(calls) > _MOST_CALLS):
        return whole
    single = placed(calls)
    if whole is not None and whole.makespan <= single.makespan * (1 + _CLEARLY):
        return whole
    return single


def _parts(candidate: Candidate, *, whole_blocks: bool) -> list[list[int]]:
    """The calls in order, in parts that stay together.

    These are what reads and replaces one buffer, what is divided by a count, and the blocks of repeats.
    """
    graph = candidate.built.graph
    number, readers, makers = {node.name: i for i, node in enumerate(graph.nodes)}, graph.consumers(), graph.producers()
    stored = {item.name: item.value for item in graph.parameters}
    together = [
        [number[node.name] for node in (*readers[stored[buffer]], makers[value]) if node.name in number]
        for buffer, value in graph.updates
    ]
    # a counter that only its own update reads goes with the call behind it
    together = [
        group if len(set(group)) > 1 else [*group, min(group[0] + 1, len(graph.nodes) - 1)] for group in together
    ]
    # what a count divides was made of the weights that the count was made of, and these lie where they are read
    counted = graph.division.counts if graph.division is not None else ()
    for item in graph.inputs:
        for reader in readers[item.value] if item.name in counted else ():
            sources = [number[makers[name].name] for name in reader.inputs if name in makers]
            together.append([number[reader.name], *sources])
    if whole_blocks:
        every = [nodes for repeat in candidate.built.repeats for nodes in repeat.nodes]
        together += [[number[node.name] for node in nodes] for nodes in every]
    parts: list[list[int]] = []
    end = 0
    spans = sorted((min(group), max(group) + 1) for group in together)
    for start, stop in [*spans, (len(graph.nodes), len(graph.nodes))]:
        if start < end:  # it overlaps with the part before
            parts[-1] += range(end, stop)
        else:
            parts += [[call] for call in range(end, start)]
            parts += [list(range(start, stop))] if stop > start else []
        end = max(end, stop)
    return parts


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
                size = _bytes(candidate, name, result_layouts(candidate.decision.strategies[node.name], i))
                reading = tuple(number[reader.name] for reader in readers[name])
                gradient = size if graph.values[name].differentiable else 0.0
                tensors.append(TensorUse(name, number[node.name], reading, size, gradient))
    pins, bans = placed_by_hand(request.options, request.grid, graph)
    return PlacementProblem(
        calls=tuple(_calls(candidate)),
        tensors=tuple(tensors),
        parameters=tuple(_parameter(candidate, item, number, request.options.optimizer) for item in graph.parameters),
        positions=position_limits(request, _inputs(candidate)),
        links=position_links(request.machine, request.grid),
        microbatches=request.microbatches,
        pins=pins,
        bans=bans,
    )


def _inputs(candidate: Candidate) -> int:
    """Bytes of the inputs of a step, which lie whole on every rank."""
    graph = candidate.built.graph
    return sum(graph.values[item.value].nbytes for item in graph.given) * candidate.built.microbatches


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
    return sum(_bytes(candidate, value, result_layouts(strategy, i)) for i, value in outputs if value)


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


def _parameter(candidate: Candidate, item: Parameter, number: Mapping[str, int], optimizer: str) -> ParameterUse:
    built = candidate.built
    value, stored = built.graph.values[item.value], candidate.decision.storage[item.value]
    size = _bytes(candidate, item.value, stored)
    sums, update = parameter_seconds(value, item.kind, stored, optimizer, built.grid, built.machine)
    trained = item.kind == "parameter"
    readers = tuple(number[node.name] for node in built.graph.consumers()[item.value])
    held = size * (2 + optimizer_copies(optimizer)) if trained else size
    return ParameterUse(item.name, held, readers, size if trained else 0.0, sums + update)


def _bytes(candidate: Candidate, name: str, layouts: Layouts) -> int:
    value = candidate.built.graph.values[name]
    return local_bytes(value.shape, ITEMSIZE[value.dtype], layouts, candidate.built.grid)
