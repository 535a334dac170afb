"""A division of the calls into segments on positions, and what it comes to: loads, messages, memory.

Segments are numbered in a topological order, which there must be: a segment runs as a whole, so none may wait for what it
makes itself (it is convex, and the graph of segments has no circle).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from autopar.partitioner.placement.problem import PlacementProblem
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem, SegmentEdge


@dataclass(frozen=True, slots=True)
class Division:
    """The segment of each call, and the position of each segment."""

    segment: tuple[int, ...]
    position: tuple[int, ...]

    @property
    def positions(self) -> list[int]:
        """The position of each call."""
        return [self.position[segment] for segment in self.segment]


def divide(problem: PlacementProblem, labels: Sequence[int], position: Sequence[int]) -> Division | None:
    """The division in which calls with one label are a segment, `position[label]`; None where segments wait for each other.

    Of segments that could come next, the one with the first call does.
    """
    first: dict[int, int] = {}
    for call, label in enumerate(labels):
        first.setdefault(label, call)
    after: dict[int, set[int]] = {label: set() for label in first}
    waits = dict.fromkeys(first, 0)
    for tensor in problem.tensors:
        source = labels[tensor.source]
        for reader in tensor.readers:
            target = labels[reader]
            if target != source and target not in after[source]:
                after[source].add(target)
                waits[target] += 1
    ready = [(first[label], label) for label, count in waits.items() if not count]
    heapify(ready)
    number: dict[int, int] = {}
    while ready:
        _, label = heappop(ready)
        number[label] = len(number)
        for target in after[label]:
            waits[target] -= 1
            if not waits[target]:
                heappush(ready, (first[target], target))
    if len(number) < len(first):
        return None
    return Division(tuple(number[label] for label in labels), tuple(position[label] for label in number))


def is_legal(problem: PlacementProblem, division: Division, segments_per_position: int) -> bool:
    """Whether a division heeds pins, bans, the most segments of a position, and `idle`."""
    counts = [0] * len(problem.positions)
    for position in division.position:
        counts[position] += 1
    heeded = all(at in allowed for at, allowed in zip(division.positions, problem.allowed, strict=True))
    return heeded and max(counts) <= segments_per_position and (problem.idle or min(counts) > 0)


def pipeline(problem: PlacementProblem, division: Division) -> PipelineProblem:
    """What is to be scheduled. Memory of a position is what parameters leave of it; it is negative where they do not fit."""
    count, position = len(division.position), division.position
    speeds = problem.speeds
    work = [[0.0] * count for _ in range(5)]
    for call, segment in zip(problem.calls, division.segment, strict=True):
        speed = speeds[position[segment]]
        for row, amount in zip(
            work,
            (call.forward / speed, call.backward / speed, call.weight / speed, call.saved, call.held),
            strict=True,
        ):
            row[segment] += amount
    forward, backward, weight, kept, held = map(tuple, work)
    memories = problem.memories
    limit = None
    if any(each.memory is not None for each in problem.positions):
        taken = parameter_bytes(problem, division)
        limit = tuple(memory - size for memory, size in zip(memories, taken, strict=True))
    return PipelineProblem(
        len(speeds),
        problem.microbatches,
        position,
        forward,
        backward,
        weight,
        edges(problem, division),
        kept,
        held,
        limit,
        tuple(update_seconds(problem, division)),
    )


def edges(problem: PlacementProblem, division: Division) -> tuple[SegmentEdge, ...]:
    """What goes between segments, by source and then by the first call that reads.

    A tensor's message to a position counts for the segment there whose call reads it first; the others have it with that one.
    """
    found: dict[tuple[int, int], list[float]] = {}
    first: dict[tuple[int, int], int] = {}
    position, links = division.position, problem.links
    for tensor in problem.tensors:
        source = division.segment[tensor.source]
        here = position[source]
        sent = {here}
        for reader in sorted(tensor.readers):
            target = division.segment[reader]
            if target == source:
                continue
            row = found.setdefault((source, target), [0.0, 0.0, 0.0, 0.0])
            row[3] += tensor.gradient
            there = position[target]
            if there not in sent:
                sent.add(there)
                row[0] += links.alpha[here][there] + tensor.size * links.beta[here][there]
                if tensor.gradient:
                    row[1] += links.alpha[there][here] + tensor.gradient * links.beta[there][here]
                row[2] += tensor.size
            first[source, target] = min(reader, first.get((source, target), reader))
    return tuple(
        SegmentEdge(source, target, *found[source, target][:3], found[source, target][3] > 0)
        for source, target in sorted(found, key=lambda pair: (pair[0], first[pair]))
    )


def cut_bytes(problem: PlacementProblem, division: Division) -> float:
    """Bytes of a step between positions: tensors and their gradients, of all micro-batches."""
    total = 0.0
    at = division.positions
    for tensor in problem.tensors:
        others = {at[reader] for reader in tensor.readers} - {at[tensor.source]}
        total += len(others) * (tensor.size + tensor.gradient)
    return total * problem.microbatches


def homes(problem: PlacementProblem, division: Division) -> list[list[int]]:
    """The positions that hold each parameter: those where it is read, the first where nothing reads it."""
    at = division.positions
    return [sorted({at[reader] for reader in parameter.readers} or {0}) for parameter in problem.parameters]


def parameter_bytes(problem: PlacementProblem, division: Division) -> list[float]:
    """Bytes of parameters, gradients and optimizer state on each position."""
    held = [0.0] * len(problem.positions)
    for parameter, there in zip(problem.parameters, homes(problem, division), strict=True):
        for position in there:
            held[position] += parameter.size
    return held


def update_seconds(problem: PlacementProblem, division: Division) -> list[float]:
    """Seconds of each position behind its last action: sums of the gradients of replicas, then the optimizer.

    A sum over k positions is a ring: 2 (k - 1) messages of a k-th of the gradient over the slowest of its links.
    """
    speeds, seconds = problem.speeds, [0.0] * len(problem.positions)
    for parameter, there in zip(problem.parameters, homes(problem, division), strict=True):
        summed = _ring(problem, there, parameter.gradient)
        for position in there:
            seconds[position] += summed + parameter.update / speeds[position]
    return seconds


def _ring(problem: PlacementProblem, positions: list[int], size: float) -> float:
    count = len(positions)
    if count < 2:
        return 0.0
    links = problem.links
    pairs = [(a, b) for a in positions for b in positions if a != b]
    return 2 * (count - 1) * max(links.alpha[a][b] + size / count * links.beta[a][b] for a, b in pairs)
