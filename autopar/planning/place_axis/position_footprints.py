"""What a rank of every position holds at most through a step: what stands there, and the walk through its actions."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from autopar.codegen.memory_footprint import KINDS
from autopar.codegen.segment_table import crossing_names
from autopar.codegen.steps import LocalValue, LoweredProgram
from autopar.costmodel.collectives import summed_axes
from autopar.costmodel.local_shapes import local_bytes
from autopar.costmodel.memory import parameter_parts, update_copies
from autopar.ir.graph import ITEMSIZE, Parameter
from autopar.partitioner.formulation.priced_problem import Decision, PricedProblem, inputs_bytes
from autopar.partitioner.placement.assignment import homes
from autopar.partitioner.placement.place import Placement
from autopar.partitioner.placement.problem import PlacementProblem
from autopar.partitioner.schedules.position_memory import CrossingEdge, DividedStep, SegmentMemory, position_peaks
from autopar.partitioner.schedules.simulate import simulate
from autopar.planning.place_axis.segment_memory import segment_memory


@dataclass(frozen=True, slots=True)
class PositionFootprint:
    """Bytes by kind at the moment at which a rank of a position holds most, and what it does then, in words."""

    parts: dict[str, int]
    during: str

    @property
    def peak(self) -> int:
        """The most bytes held at once."""
        return sum(self.parts.values())


def segment_memories(
    built: PricedProblem,
    decision: Decision,
    program: LoweredProgram,
    placement: Placement,
    weights: Collection[str],
) -> tuple[SegmentMemory, ...]:
    """What every segment holds; `weights` are the calls whose weight gradients are apart where the lists have W actions."""
    deferring = {action.segment for actions in placement.schedule for action in actions if action.kind == "W"}
    names = crossing_names(program, {item.name for item in built.graph.inputs})
    return tuple(
        segment_memory(built, decision, segment, names.__getitem__, weights if number in deferring else ())
        for number, segment in enumerate(program.segments)
    )


def position_footprints(
    built: PricedProblem,
    decision: Decision,
    program: LoweredProgram,
    problem: PlacementProblem,
    placement: Placement,
    segments: tuple[SegmentMemory, ...],
    optimizer: str,
) -> tuple[PositionFootprint, ...]:
    """Every position's."""
    lists, links = placement.schedule, problem.links
    drawn = simulate(placement.pipeline, lists)
    step = DividedStep(
        placement.assignment.position,
        segments,
        tuple(_edges(built, program)),
        lists,
        drawn.start,
        drawn.end,
        lambda a, b, nbytes: links.alpha[a][b] + nbytes * links.beta[a][b],
    )
    there = homes(problem, placement.assignment)
    returned = sum(edge.nbytes for edge in step.edges if edge.returned) * built.microbatches
    footprints = []
    for position, walked in enumerate(position_peaks(step)):
        held = [item for item, at in zip(built.graph.parameters, there, strict=True) if position in at]
        standing, ending = _standing(built, decision, held, optimizer)
        ending["activations"] = returned
        through = {kind: standing[kind] + walked.parts.get(kind, 0) for kind in KINDS}
        if walked.action is None or sum(ending.values()) > sum(through.values()):
            footprints.append(PositionFootprint(ending, f"the optimizer's step on position {position}"))
        else:
            footprints.append(PositionFootprint(through, f"{walked.action} on position {position}"))
    return tuple(footprints)


def _standing(
    built: PricedProblem, decision: Decision, held: list[Parameter], optimizer: str
) -> tuple[dict[str, int], dict[str, int]]:
    """What a position with these parameters holds all the time, and in the optimizer's step."""
    standing = dict.fromkeys(KINDS, 0)
    graph = built.graph
    standing["inputs"] = sum(inputs_bytes(built, decision).values())
    gradients, largest = 0, 0
    for item in held:
        stored = decision.storage[item.value]
        sizes = parameter_parts(graph.values[item.value], item.kind, stored, optimizer, built.grid)
        standing["parameters"] += sizes[0]
        standing["optimizer"] += sizes[2]
        standing["gradients"] += sizes[1] if summed_axes(stored, built.grid) else 0  # a place in a bucket
        gradients, largest = gradients + sizes[1], max(largest, sizes[1])
    ending = standing | {"gradients": max(gradients, standing["gradients"])}
    ending["transients"] = largest * update_copies(optimizer)
    return standing, ending


def _edges(built: PricedProblem, program: LoweredProgram) -> Iterator[CrossingEdge]:
    """What leaves segments."""
    graph, segments = built.graph, program.segments
    names = crossing_names(program, {item.name for item in graph.inputs})
    returned: set[LocalValue] = {program.loss, *program.outputs}
    for source, segment in enumerate(segments):
        for held in segment.writes:
            value = graph.values[held.value]
            readers = tuple(i for i, other in enumerate(segments) if held in other.reads)
            size = local_bytes(value.shape, ITEMSIZE[value.dtype], held.layouts, built.grid)
            yield CrossingEdge(names[held], source, readers, size, value.differentiable, held in returned)
