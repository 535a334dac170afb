"""A pipeline as a network of rows: what each action costs, who waits for it, what its position then holds.

A *row* is a kind of action of a segment: F of segment s is row s, B is row S + s, W is row 2 S + s of S segments. Action k of a
row is that of micro-batch k, and its *code* is row * micro-batches + k. All micro-batches are alike, so that nothing is lost when
each row takes them in order: in any schedule that can be carried out, let the k-th action of each row be that of micro-batch k;
it then reads what the k-th action of another row has made, which is there, since of two sequences that keep a < b pairwise
the sorted ones do too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopar.ir.pipeline.schedule import KINDS, Action, ActionLists
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem

Codes = Sequence[Sequence[int]]
"""A schedule as numbers: the codes of the actions of each position."""

Reader = tuple[int, int, float, int]
"""Who waits for an action: row, channel (-1 on the same position), seconds of the message, position."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Per row: seconds of an action, its `readers`, what it waits for (`before`: rows and seconds of their messages), and by
    how many bytes it changes what is held: an F at its start, the others at their ends.

    `deferred` says of which segments W is; `own` has the rows of each position, `topological` all of them, in an order in which
    each comes after those that it waits for.
    """

    problem: PipelineProblem
    deferred: tuple[bool, ...]
    seconds: list[float]
    readers: list[list[Reader]]
    before: list[list[tuple[int, float]]]
    change: list[float]
    own: list[list[int]]
    topological: list[int]

    @property
    def count(self) -> int:
        """The number of all actions."""
        return self.problem.microbatches * len(self.topological)


def rows_of(problem: PipelineProblem, deferred: Sequence[bool]) -> Rows:
    """The rows of a pipeline of which some segments defer their weight gradients."""
    segments = problem.segments
    every = [*range(segments), *reversed(range(segments, 2 * segments))]
    every += [2 * segments + s for s in range(segments) if deferred[s]]
    own: list[list[int]] = [[] for _ in range(problem.positions)]
    for row in every:
        own[problem.position[row % segments]].append(row)
    seconds = [problem.seconds(kind, s, deferred[s]) for kind in KINDS for s in range(segments)]
    held = [problem.held[s] if deferred[s] else 0.0 for s in range(segments)]
    after_backward = [h - k for h, k in zip(held, problem.kept, strict=True)]
    change = [*problem.kept, *after_backward, *(-h for h in held)]
    readers = _readers(problem, deferred)
    before: list[list[tuple[int, float]]] = [[] for _ in readers]
    for row, each in enumerate(readers):
        for reader, _, lasts, _ in each:
            before[reader].append((row, lasts))
    return Rows(problem, tuple(deferred), seconds, readers, before, change, own, every)


def _readers(problem: PipelineProblem, deferred: Sequence[bool]) -> list[list[Reader]]:
    segments, position = problem.segments, problem.position
    readers: list[list[Reader]] = [[] for _ in range(3 * segments)]
    for s, at in enumerate(position):
        readers[s].append((segments + s, -1, 0.0, at))
        if deferred[s]:
            readers[segments + s].append((2 * segments + s, -1, 0.0, at))
    for edge in problem.edges:
        here, there = position[edge.source], position[edge.target]
        out, back = (here * problem.positions + there, edge.forward), (there * problem.positions + here, edge.backward)
        if here == there:
            out = back = (-1, 0.0)
        readers[edge.source].append((edge.target, *out, there))
        if edge.gradient:
            readers[segments + edge.target].append((segments + edge.source, *back, here))
    return readers


def encode(problem: PipelineProblem, lists: Sequence[Sequence[Action]]) -> list[list[int]]:
    """Actions as codes."""
    count, segments = problem.microbatches, problem.segments
    first = {kind: place * segments for place, kind in enumerate(KINDS)}
    return [[(first[kind] + segment) * count + microbatch for kind, segment, microbatch in each] for each in lists]


def decode(problem: PipelineProblem, codes: Codes) -> ActionLists:
    """The inverse of `encode`."""
    count = problem.microbatches
    rows = [(kind, segment) for kind in KINDS for segment in range(problem.segments)]
    return tuple(tuple(Action(*rows[code // count], code % count) for code in each) for each in codes)


def deferring(problem: PipelineProblem, codes: Codes) -> list[bool]:
    """Per segment, whether a schedule has W actions of it."""
    count, segments = problem.microbatches, problem.segments
    rows = {code // count for each in codes for code in each}
    return [2 * segments + segment in rows for segment in range(segments)]
