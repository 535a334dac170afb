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

from autopar.partitioner.placement.problem import PlacementProblem
from autopar.partitioner.problem import Array, Ints


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


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    """All segments of up to some length: ``start[j, l]`` is where the one begins that ends before call j, -1 where none does."""

    start: Ints
    parameters: Array | None


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


def cut(sums: Chain, positions: Sequence[int], fill: float, in_flight: Sequence[int]) -> list[int] | None:
    """Where each segment begins: segment k lies on ``positions[k]``, which keeps `in_flight[k]` micro-batches of it at once.

    None where no cut heeds pins, bans and memory.
    """
    count = len(sums.problem.calls)
    if len(positions) > count:
        return None
    for length in _lengths(count, len(positions)):
        starts, objective = _best(sums, positions, fill, in_flight, _windows(sums, length))
        longer = (sums.work[length + 1 :] - sums.work[: -length - 1]).min(initial=math.inf)
        if objective <= sums.problem.microbatches * longer / max(sums.problem.speeds):
            break
    return starts if math.isfinite(objective) else None


def _lengths(count: int, segments: int) -> Iterator[int]:
    """Lengths of segments to try, until no longer one can be better."""
    length = 2 * (count // segments) + 1
    while length < count:
        yield length
        length *= 2
    yield count


def _best(
    sums: Chain, positions: Sequence[int], fill: float, in_flight: Sequence[int], windows: _Windows
) -> tuple[list[int], float]:
    """The best starts among some windows, and their objective (`inf`: there are none)."""
    count = len(sums.problem.calls)
    best = np.full(count + 1, np.inf)
    best[0] = 0.0
    places, choices = np.arange(count + 1), []
    for k, position in enumerate(positions):
        costs = _costs(sums, windows, position, positions[k - 1] if k else position, in_flight[k])
        costs += (fill / max(sums.problem.speeds)) * sums.work[windows.start]
        through = np.where(windows.start < 0, np.inf, np.maximum(best[windows.start], costs))
        chosen = through.argmin(axis=1)
        best = through[places, chosen]
        choices.append(windows.start[places, chosen])
    starts, end = [], count
    for choice in reversed(choices):
        end = int(choice[end])
        starts.append(end)
    return starts[::-1], float(best[-1])


def _costs(sums: Chain, windows: _Windows, position: int, previous: int, in_flight: int) -> Array:
    """Seconds of the micro-batches in each window on a position, messages from the one before counted; `inf` if forbidden."""
    problem, start = sums.problem, windows.start
    links = problem.links
    costs = (sums.work[:, None] - sums.work[start]) / problem.speeds[position]
    if previous != position:
        there = links.alpha[previous][position] * sums.number + links.beta[previous][position] * sums.sizes
        back = links.alpha[position][previous] * sums.gradient_number
        back += links.beta[position][previous] * sums.gradient_sizes
        costs = np.maximum(costs, np.maximum(there, back)[start])
    costs *= problem.microbatches
    banned = _prefix([float(position not in allowed) for allowed in problem.allowed])
    if banned[-1]:
        costs[(banned[:, None] - banned[start]) > 0] = np.inf
    if windows.parameters is not None:
        held = windows.parameters + in_flight * (sums.saved[:, None] - sums.saved[start])
        costs[held > problem.memories[position]] = np.inf
    return costs


def _windows(sums: Chain, length: int) -> _Windows:
    """All windows of 1 to `length` calls."""
    count = len(sums.problem.calls)
    start = np.arange(count + 1)[:, None] - np.arange(1, length + 1)[None, :]
    start = np.maximum(start, -1)
    limited = any(each.memory is not None for each in sums.problem.positions)
    return _Windows(start, _parameters(sums.problem, start) if limited else None)


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
