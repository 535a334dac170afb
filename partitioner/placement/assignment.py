"""Calls in segments, and these on positions, and what that comes to: loads, messages, memory.

Segments are numbered in a topological order, which there must be: a segment runs as a whole, so none may wait for what it
makes itself (it is convex, and the graph of segments has no circle).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from autopar.partitioner.placement.problem import PlacementProblem
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem, SegmentEdge

Homes = list[tuple[int, ...]]
"""The positions of each parameter."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The segment of each call, and the position of each segment."""

    segment: tuple[int, ...]
    position: tuple[int, ...]

    @property
    def positions(self) -> list[int]:
        """The position of each call."""
        return [self.position[segment] for segment in self.segment]


def assign(problem: PlacementProblem, labels: Sequence[int], position: Sequence[int]) -> Assignment | None:
    """The assignment in which calls with one label are a segment, `position[label]`; None where segments wait for each other.

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
    return Assignment(tuple(number[label] for label in labels), tuple(position[label] for label in number))


def is_legal(problem: PlacementProblem, assignment: Assignment, segments_per_position: int) -> bool:
    """Whether an assignment heeds pins, bans, the most segments of a position, and `idle`."""
    counts = [0] * len(problem.positions)
    for position in assignment.position:
        counts[position] += 1
    heeded = all(at in allowed for at, allowed in zip(assignment.positions, problem.allowed, strict=True))
    return heeded and max(counts) <= segments_per_position and (problem.idle or min(counts) > 0)


def pipeline(problem: PlacementProblem, assignment: Assignment) -> PipelineProblem:
    """What is to be scheduled. Memory of a position is what parameters leave of it; it is negative where they do not fit."""
    position, speeds = assignment.position, problem.speeds
    forward, backward, weight, kept, held = ([0.0] * len(position) for _ in range(5))
    for call, segment in zip(problem.calls, assignment.segment, strict=True):
        speed = speeds[position[segment]]
        forward[segment] += call.forward / speed
        backward[segment] += call.backward / speed
        weight[segment] += call.weight / speed
        kept[segment] += call.saved
        held[segment] += call.held
    there = homes(problem, assignment)
    return PipelineProblem(
        len(speeds),
        problem.microbatches,
        position,
        tuple(forward),
        tuple(backward),
        tuple(weight),
        edges(problem, assignment),
        tuple(kept),
        tuple(held),
        _limit(problem, there),
        tuple(_update_seconds(problem, there)),
    )


def _limit(problem: PlacementProblem, there: Homes) -> tuple[float, ...] | None:
    """Bytes that parameters leave of the memory of each position."""
    if all(each.memory is None for each in problem.positions):
        return None
    return tuple(memory - size for memory, size in zip(problem.memories, _bytes(problem, there), strict=True))


def edges(problem: PlacementProblem, assignment: Assignment) -> tuple[SegmentEdge, ...]:
    """What goes between segments, by source and then by the first call that reads.

    A tensor's message to a position counts for the segment there whose call reads it first; the others have it with that one.
    """
    found: dict[tuple[int, int], list[float]] = {}
    first: dict[tuple[int, int], int] = {}
    segment, position, links = assignment.segment, assignment.position, problem.links
    for tensor in problem.tensors:
        source = segment[tensor.source]
        if all(segment[reader] == source for reader in tensor.readers):
            continue
        here = position[source]
        sent = {here}
        for reader in sorted(tensor.readers):
            target = segment[reader]
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
        SegmentEdge(*pair, forward, backward, size, gradient > 0)
        for pair in sorted(found, key=lambda pair: (pair[0], first[pair]))
        for forward, backward, size, gradient in (found[pair],)
    )


def cut_bytes(problem: PlacementProblem, assignment: Assignment) -> float:
    """Bytes of a step between positions: tensors and their gradients, of all micro-batches."""
    total = 0.0
    at = assignment.positions
    for tensor in problem.tensors:
        others = {at[reader] for reader in tensor.readers} - {at[tensor.source]}
        total += len(others) * (tensor.size + tensor.gradient)
    return total * problem.microbatches


def homes(problem: PlacementProblem, assignment: Assignment) -> Homes:
    """The positions that hold each parameter: those where it is read, the first where nothing reads it."""
    segment, position = assignment.segment, assignment.position
    found: Homes = []
    for parameter in problem.parameters:
        readers = parameter.readers
        if len(readers) == 1:
            found.append((position[segment[readers[0]]],))
        else:
            found.append(tuple(sorted({position[segment[reader]] for reader in readers})) or (0,))
    return found


def parameter_bytes(problem: PlacementProblem, assignment: Assignment) -> list[float]:
    """Bytes of parameters, gradients and optimizer state on each position."""
    return _bytes(problem, homes(problem, assignment))


def _bytes(problem: PlacementProblem, there: Homes) -> list[float]:
    held = [0.0] * len(problem.positions)
    for parameter, positions in zip(problem.parameters, there, strict=True):
        for position in positions:
            held[position] += parameter.size
    return held


def _update_seconds(problem: PlacementProblem, there: Homes) -> list[float]:
    """Seconds of each position behind its last action: sums of the gradients of replicas, then the optimizer.

    A sum over k positions is a ring: 2 (k - 1) messages of a k-th of the gradient over the slowest of its links.
    """
    speeds, seconds = problem.speeds, [0.0] * len(problem.positions)
    for parameter, positions in zip(problem.parameters, there, strict=True):
        summed = _ring(problem, positions, parameter.gradient) if len(positions) > 1 else 0.0
        for position in positions:
            seconds[position] += summed + parameter.update / speeds[position]
    return seconds


def _ring(problem: PlacementProblem, positions: tuple[int, ...], size: float) -> float:
    links, count = problem.links, len(positions)
    pairs = [(a, b) for a in positions for b in positions if a != b]
    return 2 * (count - 1) * max(links.alpha[a][b] + size / count * links.beta[a][b] for a, b in pairs)
