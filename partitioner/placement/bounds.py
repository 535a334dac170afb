"""What no schedule is faster than: of one assignment, and of every placement.

A position can begin no sooner than its first input can be there, and what it does last has a way to go: with the least head
and the least tail of some of its actions, ``head + seconds of them all + tail`` is a lower bound (Carlier 1982, for one machine
with heads and tails), and so is the longest way through the step of a single micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from autopar.partitioner.placement.problem import PlacementProblem, waiting
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem, SegmentEdge

Job = tuple[float, float, float]
"""Head, seconds, tail: of all the actions of one kind and segment together, tail being what follows the last of them."""


def pipeline_bound(pipeline: PipelineProblem) -> float:
    """Seconds that every schedule of an assignment takes, whatever the memory limits."""
    return _without_limits(pipeline, _ways_through(pipeline))


def pipeline_estimate(pipeline: PipelineProblem) -> float:
    """The bound, and more where memory lets few micro-batches be in flight: about what a good schedule takes.

    A segment keeps a micro-batch from its F to its B, for as long as the way from there through the others and back; all
    that is kept fits into the limit for the seconds of the step. That ways do not wait for each other makes it an estimate.
    """
    ways = _ways_through(pipeline)
    seconds = _without_limits(pipeline, ways)
    if pipeline.limit is None:
        return seconds
    areas = [0.0] * pipeline.positions
    ends = [float("inf")] * pipeline.positions
    for segment, position in enumerate(pipeline.position):
        done = ways.release[segment] + pipeline.backward[segment]
        areas[position] += pipeline.kept[segment] * (done - ways.head[segment])
        ends[position] = min(ends[position], ways.head[segment] + ways.tail[segment])
    for area, end, limit in zip(areas, ends, pipeline.limit, strict=True):
        if area and 0 < limit < float("inf"):
            seconds = max(seconds, pipeline.microbatches * area / limit + end)
    return seconds


def _without_limits(pipeline: PipelineProblem, ways: _Ways) -> float:
    """The bound by heads and tails of what each position and each channel does, and the longest way."""
    after = [pipeline.after(position) for position in pipeline.position]
    longest = max(h + f + rest for h, f, rest in zip(ways.head, pipeline.forward, ways.rest, strict=True))
    jobs: list[list[Job]] = [[] for _ in range(pipeline.positions)]
    count = pipeline.microbatches
    for segment, position in enumerate(pipeline.position):
        weight = pipeline.weight[segment]
        backward = pipeline.backward[segment] - weight
        jobs[position] += [
            (ways.head[segment], count * pipeline.forward[segment], ways.rest[segment]),
            (ways.release[segment], count * backward, ways.tail[segment]),
        ]
        if weight:
            jobs[position].append((ways.release[segment] + backward, count * weight, after[segment]))
    return max([longest, *map(_one_machine, jobs), *map(_one_machine, _channels(pipeline, ways))])


def _ways_through(pipeline: PipelineProblem) -> _Ways:
    """The ways of one micro-batch through the segments of a pipeline."""
    tail = [w + pipeline.after(position) for w, position in zip(pipeline.weight, pipeline.position, strict=True)]
    return _ways(pipeline.forward, _input_gradient(pipeline), tail, pipeline.edges)


def _input_gradient(pipeline: PipelineProblem) -> list[float]:
    return [whole - weight for whole, weight in zip(pipeline.backward, pipeline.weight, strict=True)]


class _Ways:
    """Of each segment: seconds before F (`head`), before B (`release`), after F (`rest`), after B (`tail`), at least."""

    __slots__ = ("head", "release", "rest", "tail")

    def __init__(self, head: list[float], release: list[float], rest: list[float], tail: list[float]) -> None:
        self.head, self.release, self.rest, self.tail = head, release, rest, tail


def _ways(
    forward: Sequence[float], backward: Sequence[float], tail: list[float], edges: Sequence[SegmentEdge]
) -> _Ways:
    """The longest ways of one micro-batch, by two sweeps over edges that are sorted by their source."""
    head = [0.0] * len(forward)
    for edge in edges:
        a, b = edge.source, edge.target
        head[b] = max(head[b], head[a] + forward[a] + edge.forward)
        if edge.gradient:
            tail[b] = max(tail[b], edge.backward + backward[a] + tail[a])
    release = [h + f for h, f in zip(head, forward, strict=True)]
    rest = [b + t for b, t in zip(backward, tail, strict=True)]
    for edge in reversed(edges):
        a, b = edge.source, edge.target
        rest[a] = max(rest[a], edge.forward + forward[b] + rest[b])
        if edge.gradient:
            release[a] = max(release[a], release[b] + backward[b] + edge.backward)
    return _Ways(head, release, rest, tail)


def _channels(pipeline: PipelineProblem, ways: _Ways) -> Iterable[list[Job]]:
    """The messages of each ordered pair of positions: a channel carries one at a time."""
    backward = _input_gradient(pipeline)
    jobs: dict[tuple[int, int], list[Job]] = {}
    count, position = pipeline.microbatches, pipeline.position
    for edge in pipeline.edges:
        a, b = edge.source, edge.target
        here, there = position[a], position[b]
        if here == there:
            continue
        if edge.forward:
            job = (ways.head[a] + pipeline.forward[a], count * edge.forward, pipeline.forward[b] + ways.rest[b])
            jobs.setdefault((here, there), []).append(job)
        if edge.gradient and edge.backward:
            job = (ways.release[b] + backward[b], count * edge.backward, backward[a] + ways.tail[a])
            jobs.setdefault((there, here), []).append(job)
    return jobs.values()


def _one_machine(jobs: list[Job]) -> float:
    """The best of ``least head + seconds + least tail`` over the jobs with heads from each one's on."""
    best = seconds = 0.0
    tail = float("inf")
    for head, lasts, rest in sorted(jobs, reverse=True):
        seconds += lasts
        tail = min(tail, rest)
        best = max(best, head + seconds + tail)
    return best


def placement_bound(problem: PlacementProblem) -> float:
    """Seconds that every placement and schedule takes, messages left out.

    The largest of: the longest way of one micro-batch; all micro-batches of the heaviest call between its head and its tail;
    all work over the sum of speeds, where every position begins with a call of its own and ends with one; and what all calls
    save, times the seconds for which they do, over the memory of all positions.
    """
    forward, backward, weight = _fastest(problem)
    ways = _ways_of_calls(problem)
    count = problem.microbatches
    bound = max(h + f + rest for h, f, rest in zip(ways.head, forward, ways.rest, strict=True))
    for call in range(len(forward)):
        jobs = [
            (ways.head[call], count * forward[call], ways.rest[call]),
            (ways.release[call], count * backward[call], ways.tail[call]),
            (ways.release[call] + backward[call], count * weight[call], 0.0),
        ]
        bound = max(bound, _one_machine(jobs[: 3 if weight[call] else 2]))
    heads, tails = heads_and_tails(problem)
    work = count * sum(call.forward + call.backward for call in problem.calls)
    updates = sum(parameter.update for parameter in problem.parameters)
    return max(
        bound,
        _busy(problem.speeds, work, heads, tails),
        _busy(problem.speeds, work + updates, heads, [0.0] * len(tails)),
        _filled(problem),
    )


def heads_and_tails(problem: PlacementProblem) -> tuple[list[float], list[float]]:
    """Of each call the least seconds before its first action, and after its last one: none where that is a weight gradient."""
    ways = _ways_of_calls(problem)
    return ways.head, [0.0 if c.weight else tail for c, tail in zip(problem.calls, ways.tail, strict=True)]


def _filled(problem: PlacementProblem) -> float:
    """What calls save is kept from their forward, on the longest way to the last call and back, to their backward."""
    room = sum(problem.memories) - sum(parameter.size for parameter in problem.parameters)
    if not 0 < room < math.inf:
        return 0.0
    forward, backward, _ = _fastest(problem)
    last, reached = waiting(problem)
    there, back = [-math.inf] * len(forward), [-math.inf] * len(forward)
    there[last], back[last] = forward[last], backward[last]
    for arrow in sorted(_arrows(problem), key=lambda arrow: arrow.source, reverse=True):
        source, reader = arrow.source, arrow.target
        there[source] = max(there[source], forward[source] + there[reader])
        if arrow.gradient:
            back[source] = max(back[source], backward[source] + back[reader])
    return problem.microbatches / room * sum(problem.calls[c].saved * (there[c] + back[c]) for c in reached)


def _fastest(problem: PlacementProblem) -> tuple[list[float], list[float], list[float]]:
    """Seconds of forward, of the input gradient and of the weight gradient of each call, on the fastest it may go to."""
    speeds = [max(problem.positions[q].speed for q in allowed) for allowed in problem.allowed]
    pairs = list(zip(problem.calls, speeds, strict=True))
    forward = [call.forward / speed for call, speed in pairs]
    return forward, [(c.backward - c.weight) / speed for c, speed in pairs], [c.weight / speed for c, speed in pairs]


def _ways_of_calls(problem: PlacementProblem) -> _Ways:
    """The ways of one micro-batch through the calls, without messages."""
    forward, backward, weight = _fastest(problem)
    return _ways(forward, backward, weight, list(_arrows(problem)))


def _arrows(problem: PlacementProblem) -> Iterator[SegmentEdge]:
    """An edge without a message for each reader, sorted by source."""
    for tensor in sorted(problem.tensors, key=lambda tensor: tensor.source):
        for reader in tensor.readers:
            yield SegmentEdge(tensor.source, reader, gradient=tensor.gradient > 0)


def _busy(speeds: Sequence[float], work: float, heads: Iterable[float], tails: Iterable[float]) -> float:
    """The least T with ``sum_k speed_k max(0, T - idle_k) >= work``: positions have different first calls, and last ones.

    So the k-th of them waits for at least the k-th least head. That the fastest waits least only lowers the bound.
    """
    idle = [h + t for h, t in zip(sorted(heads), sorted(tails), strict=True)]
    total = lost = bound = 0.0
    for speed, wait in zip(sorted(speeds, reverse=True), idle, strict=False):
        if total and bound <= wait:
            break
        total += speed
        lost += speed * wait
        bound = (work + lost) / total
    return bound
