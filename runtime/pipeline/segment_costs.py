"""A divided program as a placement problem whose calls are its segments: what it costs to have them elsewhere.

Seconds and bytes are the plan's, for one micro-batch and one rank of a position, on a position of speed 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from autopar.errors import ProgramMismatch, refusal
from autopar.ir.graph import OPTIMIZER_COPIES
from autopar.ir.layout import Layouts, Shard
from autopar.ir.pipeline.placement_plan import PlacementPlan
from autopar.partitioner.placement.problem import CallWork, ParameterUse, PlacementProblem, TensorUse
from autopar.runtime.grid.grid import Axis
from autopar.runtime.program.plan_reader import Description, TensorSpec


def segment_problem(
    description: Description, layouts: Mapping[str, Layouts], axes: Sequence[Axis], segments: int
) -> PlacementProblem:
    """What is placed. Raises ProgramMismatch where the plan does not speak of the `segments` that the program has."""
    plan = description.placement
    if plan is None or len(plan.segments) != segments:
        rule = "what segments cost on other positions is worked out from the plan, which speaks of each of them"
        problem = f"{segments} segments, and {len(plan.segments) if plan else 'none'} in the plan"
        raise ProgramMismatch(refusal("SEGMENTS of the program", problem, rule, fix="compile again"))
    trained = {item.name: _bytes(item, layouts[item.name], axes) for item in description.parameters}
    copies = 2 + OPTIMIZER_COPIES[description.optimizer]
    rate = _update_rate(plan, description, trained)
    return PlacementProblem(
        calls=_segments(plan),
        tensors=tuple(
            TensorUse(edge.name, edge.source, edge.readers, edge.bytes, edge.bytes if edge.differentiable else 0.0)
            for edge in plan.edges
        ),
        parameters=tuple(
            ParameterUse(item.name, size * copies, item.segments, size, size * rate)
            if item.kind == "parameter"
            else ParameterUse(item.name, size, item.segments)
            for item in description.parameters
            for size in (trained[item.name],)
        ),
        positions=plan.limits,
        links=plan.links,
        microbatches=plan.microbatches,
    )


def _segments(plan: PlacementPlan) -> tuple[CallWork, ...]:
    works = []
    for segment in plan.segments:
        speed = plan.limits[segment.position].speed
        seconds = (segment.seconds_forward, segment.seconds_backward, segment.seconds_weight)
        forward, backward, weight = (one * speed for one in seconds)
        works.append(CallWork(segment.function, forward, backward, weight, segment.kept_bytes, segment.held_bytes))
    return tuple(works)


def _update_rate(plan: PlacementPlan, description: Description, sizes: Mapping[str, float]) -> float:
    """Seconds of the update per byte of trained parameters, on speed 1: that of a position without replicas."""
    trained = [0.0] * plan.positions
    for item in description.parameters:
        for position in {plan.segments[i].position for i in item.segments} if item.kind == "parameter" else ():
            trained[position] += sizes[item.name]
    rates = [
        seconds * limits.speed / size
        for seconds, limits, size in zip(plan.update, plan.limits, trained, strict=True)
        if size
    ]
    return min(rates, default=0.0)


def _bytes(item: TensorSpec, layouts: Layouts, axes: Sequence[Axis]) -> float:
    """Bytes of a tensor on the rank of a position that has most of it, as the axes are cut now."""
    size = float(math.prod(item.shape) * item.dtype.itemsize)
    for axis, layout in zip(axes, layouts, strict=True):
        extent = item.shape[layout.dim] // (layout.blocks * layout.unit) if isinstance(layout, Shard) else 0
        if extent:
            size *= max(high - low for low, high in pairwise(axis.bounds(extent))) / extent
    return size
