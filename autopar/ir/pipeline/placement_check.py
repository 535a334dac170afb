"""Whether what a plan that was read says of a divided graph makes sense: every call in a segment, every number in its range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from autopar.errors import PlanError
from autopar.ir.pipeline.placement_plan import PlacementPlan
from autopar.ir.pipeline.schedule import Action, parse_action


def placement_offenders(placement: PlacementPlan, calls: Sequence[str]) -> Iterator[str]:
    """What is wrong with it, one line each; `calls` are those of the plan."""
    segments, positions, known = len(placement.segments), placement.positions, set(calls)
    times = Counter(name for segment in placement.segments for name in segment.calls)
    yield from (f"call {name}: it stands in {times[name]} segments" for name in calls if times[name] != 1)
    yield from (f"placement: {name!r} is no call" for name in times if name not in known)
    yield from (f"segment {i}: it has no calls" for i, segment in enumerate(placement.segments) if not segment.calls)
    for i, segment in enumerate(placement.segments):
        yield from [f"segment {i}: position {segment.position} of {positions}"] * (segment.position >= positions)
    for edge in placement.edges:
        later = all(edge.source < reader < segments for reader in edge.readers) and edge.source < segments
        yield from [f"edge {edge.name}: from segment {edge.source} to {edge.readers}"] * (not later)
    for message in placement.messages:
        later = message.source < message.target < segments
        yield from [f"message from segment {message.source} to {message.target}"] * (not later)
    for name in ("schedule", "seconds", "update", "bytes", "limits"):
        count = len(getattr(placement, name))
        yield from [f"placement: {name} of {count} positions, of which there are {positions}"] * (count != positions)
    tables = (placement.links.alpha, placement.links.beta)
    square = all(len(row) == positions for table in tables for row in (table, *table))
    yield from [f"placement: links of other than {positions} x {positions} positions"] * (not square)
    yield from _bad_actions(placement)


def _bad_actions(placement: PlacementPlan) -> Iterator[str]:
    """Actions of no segment or micro-batch, and those that stand elsewhere or not once."""
    home = {i: segment.position for i, segment in enumerate(placement.segments)}
    times: Counter[tuple[str, int, int]] = Counter()
    for position, text in enumerate(placement.schedule):
        for word in text.split():
            try:
                action = parse_action(word)
            except PlanError:
                yield f"position {position}: {word!r} is no action"
                continue
            times[action] += 1
            if home.get(action.segment) != position or action.microbatch >= placement.microbatches:
                yield f"position {position}: {action.words}"
    yield from (f"action {Action(*key)} stands {count} times" for key, count in times.items() if count > 1)
    number = Counter((kind, segment) for kind, segment, _ in times)
    for segment in home:
        for kind in "FB":
            count = number[kind, segment]
            if count != placement.microbatches:
                yield f"segment {segment}: {count} actions {kind} for {placement.microbatches} micro-batches"
