"""Actions of a divided plan beside measured ones: by segment and kind, and in time for a trace."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from autopar.costmodel.timeline import Event
from autopar.ir.pipeline.measured_step import MeasuredRank, MeasuredStep
from autopar.ir.pipeline.placement_plan import PlacementPlan
from autopar.ir.pipeline.schedule import KINDS, NAMES, parse_action

_EVENTS = {"F": "forward", "B": "backward", "W": "backward"}


@dataclass(frozen=True, slots=True)
class ActionRow:
    """Seconds of a kind of action of a segment, for one micro-batch: predicted, and the slowest rank's median without waits."""

    segment: int
    function: str
    kind: str
    predicted: float
    measured: float


def action_rows(placement: PlacementPlan, step: MeasuredStep) -> tuple[ActionRow, ...]:
    """Every kind of action that was measured, of segments that the plan has, in their order."""
    seconds: dict[tuple[int, str], dict[int, list[float]]] = {}
    for rank in step.ranks:
        for one in rank.actions:
            kind, number, _ = parse_action(one.action)
            if number < len(placement.segments):
                seconds.setdefault((number, kind), {}).setdefault(rank.rank, []).append(one.work)
    rows = []
    for (number, kind), by_rank in sorted(seconds.items(), key=lambda item: (item[0][0], KINDS.index(item[0][1]))):
        segment = placement.segments[number]
        apart = segment.seconds_weight if (number, "W") in seconds else 0.0
        predicted = {"F": segment.seconds_forward, "B": segment.seconds_backward - apart, "W": apart}[kind]
        slowest = max(map(median, by_rank.values()))
        rows.append(ActionRow(number, segment.function, NAMES[kind], predicted, slowest))
    return tuple(rows)


def moved_segments(placement: PlacementPlan, step: MeasuredStep) -> tuple[str, ...]:
    """The segments that did not stand where the plan has them when the step was measured, in words."""
    stood = {parse_action(one.action)[1]: rank.position for rank in step.ranks for one in rank.actions}
    return tuple(
        f"segment {number} ({segment.function}) was measured on position {stood[number]}; the plan has it on {segment.position}"
        for number, segment in enumerate(placement.segments)
        if stood.get(number, segment.position) != segment.position
    )


def measured_events(placement: PlacementPlan, rank: MeasuredRank) -> tuple[Event, ...]:
    """What a rank did, for a trace: waits apart from the actions that waited."""
    events: list[Event] = []
    for one in rank.actions:
        kind, segment, _ = parse_action(one.action)
        begun = one.start + one.waited
        events += [Event("wait", "wait", "compute", one.start, begun)] if one.waited else []
        function = placement.segments[segment].function if segment < len(placement.segments) else ""
        events.append(Event(one.action, _EVENTS[kind], "compute", begun, one.end, function))
    return tuple(events)
