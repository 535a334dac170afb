"""``--microbatches auto``: into how many micro-batches a batch is divided where the memory limit or a place axis asks for it.

One is best where its plan meets the limit as it is, since each further micro-batch costs its launches. Otherwise 2, 4, 8 ... are
tried beside what one does under the limit (parameters gathered for use, blocks computed again), up to one row a rank, and the
shortest predicted step is taken. Once a plan needs neither, more micro-batches only cost more.

On a grid with a queue, more micro-batches leave less to wait for when the queue is empty: 8 for each replica are tried, 4 and 2,
and the most are taken of which the step is predicted at most 5 % longer than the shortest.

On a place axis of p positions, more micro-batches leave less of a step idle, and cost their launches and messages. So twice as
many as there are positions are tried first, then more as long as the step gets shorter, then fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from autopar.errors import AutoparError, CaptureError, ConfigError, InfeasiblePlan, refusal
from autopar.ir.grid import GridShape
from autopar.partitioner.problem import NotShorter
from autopar.progress import Progress

AUTO = "auto"
_EACH = (8, 4, 2)  # micro-batches for each replica of a queue
_DEARER = 1.05  # a step that many micro-batches make longer by no more is taken


@dataclass(frozen=True, slots=True)
class MicrobatchCount:
    """So many micro-batches, and why."""

    microbatches: int
    why: str = ""


ONE = MicrobatchCount(1)


class PricedPlan(Protocol):
    """A plan: its predicted step, and whether it was found without a memory limit."""

    @property
    def seconds(self) -> float: ...  # noqa: D102 (the class says it)
    @property
    def unlimited(self) -> bool: ...  # noqa: D102


AnyPriced = TypeVar("AnyPriced", bound=PricedPlan)


def search(rows: int, ranks: int, compile: Callable[[MicrobatchCount], AnyPriced], tell: Progress) -> AnyPriced:
    """The shortest predicted step of those that meet the limit. Raises what one micro-batch raises where none does."""
    best: AnyPriced | None = None
    first: AutoparError | None = None
    for count in counts(rows, ranks):
        try:
            one = compile(count)
        except InfeasiblePlan as error:
            first = first or error
            continue
        except (ConfigError, CaptureError) as error:
            if count.microbatches == 1:
                raise
            tell("divided", f"not into {count.microbatches}: {str(error).splitlines()[0]}", 0.0)
            continue
        if best is None or one.seconds < best.seconds:
            best = one
        if one.unlimited:
            break
    if best is None:
        assert first is not None, "one micro-batch is tried first, and what is no matter of memory is raised"
        raise first
    return best


def search_for_pipeline(
    rows: int, positions: int, compile: Callable[[MicrobatchCount, AnyPriced | None], AnyPriced], tell: Progress
) -> AnyPriced:
    """The shortest predicted step on a place axis.

    `compile` is told the best plan so far, and may raise NotShorter where it sees none that is shorter. Raises what one micro-batch
    raises where nothing else can be planned, and NotShorter where that is all there is.
    """
    best: AnyPriced | None = None
    passed: list[float] = []

    def seconds(count: int) -> float:
        """Of the shortest step with so many micro-batches, or what no such step is shorter than."""
        nonlocal best
        try:
            one = compile(MicrobatchCount(count, "auto: for the place axis"), best)
        except (InfeasiblePlan, ConfigError, CaptureError) as error:
            tell("divided", f"not into {count}: {str(error).splitlines()[0]}", 0.0)
            return math.inf
        except NotShorter as error:
            passed.append(error.seconds)
            return error.seconds
        best = one if best is None or one.seconds < best.seconds else best
        return one.seconds

    first = min(2 * positions, rows)
    more = [first << i for i in range(1, rows.bit_length()) if first << i <= rows]
    fewer = [first >> i for i in range(1, first.bit_length()) if first >> i > 1]
    start = least = seconds(first) if first > 1 else math.inf
    for ladder in (more, fewer):
        for count in ladder if least == start else ():
            if (now := seconds(count)) >= least:
                break
            least = now
    if best is None and passed:
        raise NotShorter(min(passed))
    return best if best is not None else compile(MicrobatchCount(1, "auto: the batch is not to be divided"), None)


def search_for_queue(
    rows: int, replicas: int, compile: Callable[[MicrobatchCount], AnyPriced], tell: Progress
) -> AnyPriced:
    """The most micro-batches that make a step little longer. Raises what the most of them raise where none can be planned."""
    planned: list[AnyPriced] = []
    first: AutoparError | NotShorter | None = None
    most = max(rows // 2, min(replicas, rows))  # a program for one row seldom holds for two
    for count in dict.fromkeys(min(each * replicas, most) for each in _EACH):
        try:
            planned.append(compile(MicrobatchCount(count, "auto: for the queue")))
        except (InfeasiblePlan, ConfigError, CaptureError, NotShorter) as error:
            first = first or error
            tell("divided", f"not into {count}: {str(error).splitlines()[0]}", 0.0)
    if not planned:
        assert first is not None, "one number of micro-batches at least is tried"
        raise first
    shortest = min(one.seconds for one in planned)
    return next(one for one in planned if one.seconds <= shortest * _DEARER)


def check_queue(grid: GridShape, microbatches: int) -> None:
    """Raise ConfigError where the replicas of a queue have no micro-batches to draw."""
    if grid.queue and microbatches < 2:
        given = f"{microbatches} micro-batch of a batch, and {grid.replicas} replicas to compute it"
        rule = f"the replicas of {grid.queue.name} draw the micro-batches of a batch from a queue"
        fix = "leave --microbatches out, or take several for each replica; a batch of one row is for a grid without a queue"
        raise ConfigError(refusal(f"grid {grid}", given, rule, fix=fix))


def _seconds(priced: PricedPlan | None) -> float:
    return math.inf if priced is None else priced.seconds


def counts(rows: int, ranks: int) -> Iterator[MicrobatchCount]:
    """1, 2, 4, ... up to where micro-batches have less than a row for each of the ranks."""
    yield MicrobatchCount(1, "auto: the memory limit asks for no more")
    count = 2
    while count < rows:
        yield MicrobatchCount(count, "auto: for the memory limit")
        if count * ranks > rows:
            return
        count *= 2
