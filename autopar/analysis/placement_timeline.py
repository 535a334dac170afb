"""The step of a divided plan, simulated from what the plan says: who does what when, who waits, as lanes of text and as events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from autopar.costmodel.timeline import Event
from autopar.ir.pipeline.measured_step import MeasuredStep
from autopar.ir.pipeline.placement_plan import PlacementPlan
from autopar.ir.pipeline.schedule import Action, parse_action, parse_schedule
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem, SegmentEdge
from autopar.partitioner.schedules.simulate import Timeline, simulate

FILLS = {"F": "-", "B": "=", "W": "~"}
LEGEND = "F forward -, B backward =, W weight gradients ~ of a micro-batch, u gradient sums and update, . waits"
SEGMENTS_LEGEND = "F1.0: segment 1, micro-batch 0"
_ROUNDING = 1e-9  # shares of a step that are no wait
_KINDS = {"F": "forward", "B": "backward", "W": "backward"}


@dataclass(frozen=True, slots=True)
class PositionTime:
    """What a position does in a step: `work` in seconds, its share of the step that is `idle`, and the `bytes` it holds."""

    position: int
    segments: tuple[int, ...]
    work: float
    idle: float
    bytes: float


def pipeline_of(placement: PlacementPlan) -> PipelineProblem:
    """What is scheduled, as the plan has it."""
    segments = placement.segments
    return PipelineProblem(
        placement.positions,
        placement.microbatches,
        tuple(segment.position for segment in segments),
        tuple(segment.seconds_forward for segment in segments),
        tuple(segment.seconds_backward for segment in segments),
        tuple(segment.seconds_weight for segment in segments),
        tuple(
            SegmentEdge(m.source, m.target, m.seconds_forward, m.seconds_backward, m.bytes, m.gradient)
            for m in placement.messages
        ),
        tuple(segment.kept_bytes for segment in segments),
        tuple(segment.held_bytes for segment in segments),
        update=placement.update,
    )


def timeline(placement: PlacementPlan) -> Timeline:
    """When every action starts and ends. Raises PlanError for a schedule that cannot be carried out."""
    text = "\n".join(f"{position}: {actions}" for position, actions in enumerate(placement.schedule))
    return simulate(pipeline_of(placement), parse_schedule(text))


def positions(placement: PlacementPlan) -> tuple[PositionTime, ...]:
    """Every position of the place axis."""
    rows = zip(placement.seconds, placement.idle, placement.bytes, strict=True)
    return tuple(
        PositionTime(position, tuple(i for i, s in enumerate(placement.segments) if s.position == position), *row)
        for position, row in enumerate(rows)
    )


def several_segments(placement: PlacementPlan) -> bool:
    """Whether some position has more than one."""
    return len(placement.segments) > len({segment.position for segment in placement.segments})


def lanes(placement: PlacementPlan, width: int) -> tuple[str, ...]:
    """One line of so many signs per position, to scale: an action is its name where there is room, then its sign.

    The name of an action says the segment where a position has several, and always the micro-batch.
    """
    drawn = timeline(placement)
    scale = width / drawn.makespan if drawn.makespan else 0.0
    several = several_segments(placement)
    lines = []
    for position, actions in enumerate(drawn.lists):
        line = _lane(zip(actions, drawn.start[position], drawn.end[position], strict=True), scale, several)
        done = drawn.end[position][-1] if actions else 0.0
        line = line.ljust(round((done + placement.update[position]) * scale), "u")
        lines.append(line.ljust(width, "."))
    return tuple(lines)


def measured_lanes(placement: PlacementPlan, step: MeasuredStep, width: int) -> tuple[str, ...]:
    """The same of a step that was measured: of each position the rank that has worked longest. What it waited for comes first."""
    scale = width / step.seconds if step.seconds else 0.0
    every = (step.slowest(position).actions for position in range(placement.positions))
    rows = ([(parse_action(a.action), a.start + a.waited, a.end) for a in actions] for actions in every)
    return tuple(_lane(row, scale, several_segments(placement)).ljust(width, ".") for row in rows)


def _lane(actions: Iterable[tuple[Action, float, float]], scale: float, several: bool) -> str:
    """Actions with their starts and ends, to scale."""
    line = ""
    for action, start, end in actions:
        line = line.ljust(round(start * scale), ".")
        line += _cell(action, round(end * scale) - len(line), several)
    return line


def _cell(action: Action, width: int, several: bool) -> str:
    """An action on so many signs."""
    name = str(action) if several else f"{action.kind}{action.microbatch}"
    shown = name if len(name) <= width else action.kind[:width]
    return shown.ljust(width, FILLS[action.kind])


def all_events(placement: PlacementPlan) -> list[tuple[str, tuple[Event, ...]]]:
    """What every position does in one step, waits included, for a trace."""
    drawn = timeline(placement)
    return [
        (f"predicted, position {position}", tuple(_events(placement, drawn, position)))
        for position in range(placement.positions)
    ]


def _events(placement: PlacementPlan, drawn: Timeline, position: int) -> Iterator[Event]:
    now, least = 0.0, drawn.makespan * _ROUNDING
    for action, start, end in zip(drawn.lists[position], drawn.start[position], drawn.end[position], strict=True):
        if start > now + least:
            yield Event("wait", "wait", "compute", now, start)
            now = start
        yield Event(str(action), _KINDS[action.kind], "compute", now, end, placement.segments[action.segment].function)
        now = end
    done = now + placement.update[position]
    yield Event("update", "update", "compute", now, done)
    if drawn.makespan > done + least:
        yield Event("wait", "wait", "compute", done, drawn.makespan)
