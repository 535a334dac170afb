"""An order of calls cut into contiguous segments, by dynamic programming that is optimal for this objective:

of segments k = 1, 2, ..., each from call i_k on,

    the largest of  fill * before(i_k) + microbatches * max(seconds of segment k, seconds of messages into it, and back out of it)

where `before` is the seconds of all calls before, on the fastest position. With ``fill = 0`` that is the slowest segment; with
``fill = 1`` it counts that a position waits for its first input and that its last gradient has a way to go, which makes the first
segments the larger ones. Memory, pins and bans are heeded; a tensor that skips segments counts at every cut that it crosses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from autopar.partitioner.placement.problem import PlacementProblem
from autopar.partitioner.problem import Array, Ints

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Sums over the calls of a problem before each place in their order, for many cuts of it.

    Of the tensors that cross a place: their `number` and bytes, and those of their gradients.
    """

    problem: PlacementProblem
    work: Array
    saved: Array
    number: Array
    sizes: Array
    gradient_number: Array
    gradient_sizes: Array


@dataclass(frozen=True, slots=True)
class CutWay:
    """How a chain is to be cut: segment k lies on ``positions[k]``, which keeps `in_flight[k]` micro-batches of it at once.

    With several `rounds`, that many stretches of equal work are cut one after the other, each into its share of the segments,
    so that a position which has got much in one round gets less in the next.
    """

    positions: tuple[int, ...]
    in_flight: tuple[int, ...]
    fill: float = 0.0
    rounds: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    """All segments of up to some length: ``start[j, l]`` is where the one begins that ends before call j, -1 where none does.

    Of each the seconds on speed 1, the bytes that a micro-batch saves, and those of the parameters (None: memory is no matter).
    """

    start: Ints
    outside: Bools
    work: Array
    before: Array
    saved: Array
    parameters: Array | None


@dataclass(slots=True)
class _Taken:
    """What the positions have got in earlier rounds: seconds on speed 1 per micro-batch, and bytes."""

    work: list[float]
    held: list[float]


def chain(problem: PlacementProblem) -> Chain:
    """The sums of a problem."""
    number, sizes, gradient_number, gradient_sizes = (np.zeros(len(problem.calls) + 1) for _ in range(4))
    for tensor in problem.tensors:
        crossed = slice(tensor.source + 1, max(tensor.readers, default=tensor.source) + 1)
        number[crossed] += 1
        sizes[crossed] += tensor.size
        gradient_number[crossed] += tensor.gradient > 0
        gradient_sizes[crossed] += tensor.gradient
    work = _prefix([call.forward + call.backward for call in problem.calls])
    saved = _prefix([call.saved for call in problem.calls])
    return Chain(problem, work, saved, number, sizes, gradient_number, gradient_sizes)


def cut(sums: Chain, way: CutWay) -> list[int] | None:
    """Where each segment begins. None where no cut heeds pins, bans and memory."""
    problem, count = sums.problem, len(way.positions) // way.rounds
    ends = [int(np.abs(sums.work - sums.work[-1] * r / way.rounds).argmin()) for r in range(way.rounds)]
    ends = [*ends, len(problem.calls)]
    taken = _Taken([0.0] * len(problem.positions), [0.0] * len(problem.positions))
    starts: list[int] = []
    for number, (begin, end) in enumerate(pairwise(ends)):
        own = slice(number * count, (number + 1) * count)
        previous = way.positions[number * count - 1] if number else None
        part = CutWay(way.positions[own], way.in_flight[own], way.fill)
        found = _cut_round(sums, part, (begin, end), previous, taken)
        if found is None:
            return None
        starts += found
    return starts


def _cut_round(
    sums: Chain, way: CutWay, span: tuple[int, int], previous: int | None, taken: _Taken
) -> list[int] | None:
    """The best cut of the calls of a span, `previous` being the position before it; what positions get is added to `taken`."""
    begin, end = span
    if len(way.positions) > end - begin:
        return None
    for length in _lengths(end - begin, len(way.positions)):
        windows = _windows(sums, length)
        starts, objective = _best(sums, way, windows, span, previous, taken)
        longer = (sums.work[begin + length + 1 : end + 1] - sums.work[begin : end - length]).min(initial=math.inf)
        if objective <= sums.problem.microbatches * longer / max(sums.problem.speeds):
            break
    if not math.isfinite(objective):
        return None
    for k, (start, stop) in enumerate(pairwise([*starts, end])):
        position, window = way.positions[k], (stop, stop - start - 1)
        taken.work[position] += windows.work[window]
        if windows.parameters is not None:
            taken.held[position] += windows.parameters[window] + way.in_flight[k] * windows.saved[window]
    return starts


def _lengths(count: int, segments: int) -> Iterator[int]:
    """Lengths of segments to try, until no longer one can be better."""
    length = 2 * (count // segments) + 1
    while length < count:
        yield length
        length *= 2
    yield count


def _best(
    sums: Chain, way: CutWay, windows: _Windows, span: tuple[int, int], previous: int | None, taken: _Taken
) -> tuple[list[int], float]:
    """The best starts among some windows, and their objective (`inf`: there are none)."""
    best = np.full(len(sums.work), np.inf)
    best[span[0]] = 0.0
    places, choices = np.arange(len(sums.work)), []
    filled = windows.before * (way.fill / max(sums.problem.speeds))
    last, known = previous, dict[tuple[object, ...], Array]()
    for position, in_flight in zip(way.positions, way.in_flight, strict=True):
        key = _kind(sums.problem, position, last, in_flight, taken)
        if key not in known:
            known[key] = _costs(sums, windows, position, last, in_flight, taken) + filled
        through = np.maximum(best[windows.start], known[key])
        through[windows.outside] = np.inf
        chosen = through.argmin(axis=1)
        best = through[places, chosen]
        choices.append(windows.start[places, chosen])
        last = position
    starts, end = [], span[1]
    for choice in reversed(choices):
        end = int(choice[end])
        starts.append(end)
    return starts[::-1], float(best[span[1]])


def _kind(
    problem: PlacementProblem, position: int, previous: int | None, in_flight: int, taken: _Taken
) -> tuple[object, ...]:
    """All that the costs of windows depend on: those of two positions are often the same."""
    links = problem.links
    linked = None
    if previous is not None and previous != position:
        linked = [
            table[a][b] for table in (links.alpha, links.beta) for a, b in ((previous, position), (position, previous))
        ]
    banned = position if any(position not in allowed for allowed in problem.allowed) else None
    own = problem.positions[position]
    flying = in_flight if own.memory is not None else 0
    return own, None if linked is None else tuple(linked), banned, flying, taken.work[position], taken.held[position]


def _costs(sums: Chain, windows: _Windows, position: int, previous: int | None, in_flight: int, taken: _Taken) -> Array:
    """Seconds of the micro-batches in each window on a position, messages from the one before counted; `inf` if forbidden."""
    problem, start = sums.problem, windows.start
    links = problem.links
    costs = (windows.work + taken.work[position]) / problem.speeds[position]
    if previous is not None and previous != position:
        there = links.alpha[previous][position] * sums.number + links.beta[previous][position] * sums.sizes
        back = links.alpha[position][previous] * sums.gradient_number
        back += links.beta[position][previous] * sums.gradient_sizes
        costs = np.maximum(costs, np.maximum(there, back)[start])
    costs *= problem.microbatches
    banned = _prefix([float(position not in allowed) for allowed in problem.allowed])
    if banned[-1]:
        costs[(banned[:, None] - banned[start]) > 0] = np.inf
    if windows.parameters is not None:
        held = windows.parameters + in_flight * windows.saved + taken.held[position]
        costs[held > problem.memories[position]] = np.inf
    return costs


def _windows(sums: Chain, length: int) -> _Windows:
    """All windows of 1 to `length` calls."""
    count = len(sums.problem.calls)
    start = np.arange(count + 1)[:, None] - np.arange(1, length + 1)[None, :]
    start = np.maximum(start, -1)
    limited = any(each.memory is not None for each in sums.problem.positions)
    return _Windows(
        start,
        start < 0,
        sums.work[:, None] - sums.work[start],
        sums.work[start],
        sums.saved[:, None] - sums.saved[start],
        _parameters(sums.problem, start) if limited else None,
    )


def _parameters(problem: PlacementProblem, start: Ints) -> Array:
    """Bytes of the parameters that each window reads: of those it reads several times, once."""
    count = len(problem.calls)
    first = np.zeros(count)
    again = np.zeros_like(start, dtype=float)
    for parameter in problem.parameters:
        readers = sorted(set(parameter.readers))
        first[readers[:1]] += parameter.size
        for last, reader in pairwise(readers):
            again[(start > last) & (start <= reader) & (np.arange(count + 1)[:, None] > reader)] += parameter.size
    total = _prefix(first)
    held: Array = total[:, None] - total[start] + again
    return held


def equal_cut(weights: Sequence[float], segments: int) -> list[int]:
    """Where segments begin that have about equal shares of the weights, and one call or more each.

    >>> equal_cut([1, 1, 1, 3], 2)
    [0, 3]
    """
    total, count = _prefix(weights), len(weights)
    starts = [0]
    for k in range(1, segments):
        place = int(np.abs(total - total[-1] * k / segments).argmin())
        starts.append(min(max(place, starts[-1] + 1), count - segments + k))
    return starts


def labels_of(starts: Sequence[int], count: int) -> list[int]:
    """The segment of each call.

    >>> labels_of([0, 3], 4)
    [0, 0, 0, 1]
    """
    ends = [*starts[1:], count]
    return [k for k, (start, end) in enumerate(zip(starts, ends, strict=True)) for _ in range(start, end)]


def _prefix(values: Sequence[float] | Array) -> Array:
    return np.concatenate([[0.0], np.cumsum(values)])
