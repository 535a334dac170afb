"""The proof of a schedule, by carrying out the lists of all positions symbolically, before a program is written or run.

What is shown of the lists:

1. Every F and B of every segment and micro-batch stands once, on the segment's own position; of a segment's W, all or none.
2. On a position, F comes before B and B before W of the same segment and micro-batch.
3. Every action can run: what it reads has been made, here or elsewhere. So every receive has its send, and nobody waits in
   vain: a position waits at an action only for actions that run before it, and that holds for all positions together.
4. As many micro-batches at most are in flight as were planned for.

Messages are matched by tag, which is an edge and a micro-batch, not by the order in which they are sent. Sends do not block. Then
the order within each list, and "made before read" from list to list, are all that one action can wait for, whether a send is
buffered or waits for its receive; the lists can deadlock just where these two have a circle, and it makes no difference who
runs first. Lists from which whole micro-batches are left out, or all B and W, have fewer of both, and stay free of circles.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autopar.errors import PlanError, refusal
from autopar.ir.pipeline.schedule import NAMES, Action

_SHOWN = 12  # offenders in one message


@dataclass(frozen=True, slots=True)
class ValueEdge:
    """A value that segment `source` makes and segment `target` reads; without `gradient` nothing comes back."""

    value: str
    source: int
    target: int
    gradient: bool = True

    def __str__(self) -> str:
        return f"{self.value} (segment {self.source} -> {self.target})"


@dataclass(frozen=True, slots=True)
class SegmentGraph:
    """What the lists are for: the position of each segment, what goes from segment to segment, how many micro-batches."""

    positions: int
    microbatches: int
    position: tuple[int, ...]
    edges: tuple[ValueEdge, ...]


@dataclass(frozen=True, slots=True)
class _Need:
    """An action that must have run before another, and what it makes for it."""

    action: Action
    of: str


def check_schedule(
    graph: SegmentGraph, lists: Sequence[Sequence[Action]], planned: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The most micro-batches in flight per segment, at most `planned` where that is given. Raises PlanError otherwise.

    A micro-batch is in flight from the start of F to the end of W, or of B where nothing is deferred.
    """
    _refuse("every action stands once, on the position of its segment", list(_misplaced(graph, lists)))
    _refuse("forward comes before backward, and backward before weight gradients", list(_out_of_order(lists)))
    _refuse("nobody waits for an action that comes after its own", _waiting(graph, lists))
    flight = in_flight(lists, len(graph.position))
    if planned is not None:
        more = [
            f"segment {segment} on position {graph.position[segment]}: {most} micro-batches in flight, {limit} planned"
            for segment, (most, limit) in enumerate(zip(flight, planned, strict=True))
            if most > limit
        ]
        _refuse("no more micro-batches are in flight than memory was planned for", more)
    return flight


def in_flight(lists: Sequence[Sequence[Action]], segments: int) -> tuple[int, ...]:
    """The most micro-batches of each segment that are in flight at once (see `check_schedule`)."""
    last = {a.segment: "B" for actions in lists for a in actions}
    last |= {a.segment: "W" for actions in lists for a in actions if a.kind == "W"}
    now, most = [0] * segments, [0] * segments
    for kind, segment, _ in (action for actions in lists for action in actions):
        now[segment] += (kind == "F") - (kind == last[segment])
        most[segment] = max(most[segment], now[segment])
    return tuple(most)


def _refuse(rule: str, offenders: list[str]) -> None:
    if offenders:
        more = [f"and {len(offenders) - _SHOWN} more"] if len(offenders) > _SHOWN else []
        fix = "mend the lists, or compile again for lists that autopar has proved"
        given = "the lists cannot be carried out"
        raise PlanError(refusal("schedule", given, rule, [*offenders[:_SHOWN], *more], fix))


def _misplaced(graph: SegmentGraph, lists: Sequence[Sequence[Action]]) -> Iterator[str]:
    """Actions that are unknown, elsewhere, twice, or missing."""
    if len(lists) != graph.positions:
        yield f"{len(lists)} lists for {graph.positions} positions"
    segments, count = len(graph.position), graph.microbatches
    for position, actions in enumerate(lists):
        for action in actions:
            if not (0 <= action.segment < segments and 0 <= action.microbatch < count):
                there = f"there are {segments} segments and {count} micro-batches"
                yield f"position {position}: {action} is no action, {there}"
            elif graph.position[action.segment] != position:
                home = graph.position[action.segment]
                yield f"position {position}: {action.words}, whose segment is on position {home}"
    times = Counter(action for actions in lists for action in actions)
    yield from (f"{action.words} stands {number} times" for action, number in times.items() if number > 1)
    deferred = {action.segment for action in times if action.kind == "W"}
    for segment, position in enumerate(graph.position):
        for kind in "FBW" if segment in deferred else "FB":
            absent = [Action(kind, segment, m) for m in range(count) if Action(kind, segment, m) not in times]
            yield from (f"position {position}: {action.words} is missing" for action in absent)


def _out_of_order(lists: Sequence[Sequence[Action]]) -> Iterator[str]:
    """Actions before which those of their own segment and micro-batch have not run."""
    for position, actions in enumerate(lists):
        place = {action: index for index, action in enumerate(actions)}
        for action in actions:
            before = Action({"F": "F", "B": "F", "W": "B"}[action.kind], action.segment, action.microbatch)
            if place[before] > place[action]:
                yield f"position {position}: {action.words} comes before its {NAMES[before.kind]}, {before}"


def _waiting(graph: SegmentGraph, lists: Sequence[Sequence[Action]]) -> list[str]:
    """Carries out all lists: the circle of positions that wait for each other, in words; empty where all reach their ends."""
    reads = _reads(graph)
    run: set[Action] = set()
    reached = [0] * len(lists)
    blocked: dict[int, _Need] = {}
    waiting: dict[Action, list[int]] = defaultdict(list)
    ready = list(range(len(lists)))
    while ready:
        position = ready.pop()
        blocked.pop(position, None)
        for action in lists[position][reached[position] :]:
            row = reads.get((action.kind, action.segment), ())
            needs = (_Need(Action(action.kind, segment, action.microbatch), edge) for segment, edge in row)
            missing = next((need for need in needs if need.action not in run), None)
            if missing is not None:
                blocked[position] = missing
                waiting[missing.action].append(position)
                break
            run.add(action)
            reached[position] += 1
            ready.extend(waiting.pop(action, ()))
    return _circle(
        graph, [actions[k] if k < len(actions) else None for actions, k in zip(lists, reached, strict=True)], blocked
    )


def _reads(graph: SegmentGraph) -> dict[tuple[str, int], list[tuple[int, str]]]:
    """Per kind and segment: the segments whose action of that kind makes what it reads, and what that is."""
    reads: dict[tuple[str, int], list[tuple[int, str]]] = defaultdict(list)
    for edge in graph.edges:
        reads["F", edge.target].append((edge.source, str(edge)))
        if edge.gradient:
            reads["B", edge.source].append((edge.target, f"the gradient of {edge}"))
    return reads


def _circle(graph: SegmentGraph, heads: Sequence[Action | None], blocked: dict[int, _Need]) -> list[str]:
    """From a position that is blocked to the one which it waits for, till one comes again."""
    if not blocked:
        return []
    position, seen = min(blocked), []
    while position not in seen:
        seen.append(position)
        position = graph.position[blocked[position].action.segment]
    return [_waits(graph, heads, at, blocked[at]) for at in seen[seen.index(position) :]]


def _waits(graph: SegmentGraph, heads: Sequence[Action | None], position: int, need: _Need) -> str:
    head, there = heads[position], graph.position[need.action.segment]
    assert head is not None, "a position at its end waits for nothing"
    where = "comes later in its own list" if there == position else f"comes on position {there} after {heads[there]}"
    return f"position {position}: {head.words} waits for {need.of}, but {need.action} {where}"
