"""The best schedule that is found for a pipeline: list scheduling in several orders, the named schedules, then moves.

1. Each order of `priorities` is tried with and without deferred weight gradients, till a schedule meets the lower bound.
2. So is every named schedule that is defined and fits the memory: none of them is ever faster than what is found.
3. The best one is changed along its longest path (`moves`), as long as it is above the bound.
4. Of schedules that are as fast, the one that defers nothing is taken, then the one that keeps the least: the order that has
   won is tried again with room for fewer micro-batches in flight, and segments cease to defer where that costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from autopar.errors import ConfigError, InfeasiblePlan, refusal
from autopar.ir.pipeline.schedule import ActionLists
from autopar.partitioner.schedules.list_scheduling import Priority, has_room, list_schedule
from autopar.partitioner.schedules.lower_bound import lower_bound
from autopar.partitioner.schedules.moves import improve
from autopar.partitioner.schedules.named import NAMED
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem
from autopar.partitioner.schedules.priorities import ROOM, priorities, sized
from autopar.partitioner.schedules.rows import Rows, decode, deferring, encode, rows_of
from autopar.partitioner.schedules.simulate import finish, fits, peak_bytes, run

_EQUAL = 1e-9  # makespans that differ by this share are equal
_ACTIONS = 200_000  # that list scheduling orders in all: about a second
_MOST_WITHOUT = 3  # orders tried without deferred weight gradients, which hardly ever are the faster
_TRIED_ACTIONS = 500_000  # that moves simulate in all
_FEWEST_TRIES = 30  # moves that are worth beginning with


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A schedule with its makespan in seconds, the bytes that all positions keep at most, and the order that led to it."""

    makespan: float
    bytes: float
    rows: Rows
    codes: list[list[int]]
    priority: Priority | None = None


def auto(problem: PipelineProblem, tries: int = 400) -> ActionLists:
    """The best schedule found, with at most some tries of moves.

    How positions are numbered makes no difference. Raises InfeasiblePlan where some position has no room for a micro-batch of its
    segments.
    """
    order = sorted(range(problem.positions), key=(*problem.position, *range(problem.positions)).index)
    alike = renumbered(problem, order)
    best = _best(alike, tries)
    if best is None:
        raise InfeasiblePlan(_no_room(problem))
    lists = decode(alike, best.codes)
    return tuple(lists[order.index(position)] for position in range(problem.positions))


def forecast(problem: PipelineProblem) -> float:
    """Seconds of a schedule that `auto` seldom beats by much, in a tenth of its time; `inf` where there is no room.

    It is by the most promising order, or by the first that holds micro-batches back.
    """
    rows = rows_of(problem, [seconds > 0 for seconds in problem.weight])
    if not has_room(rows):
        return math.inf
    orders = priorities(rows)
    paced = [order for order in orders if order.pace]
    return min(_found(rows, list_schedule(rows, order)).makespan for order in [orders[0], *paced[:1]])


def renumbered(problem: PipelineProblem, order: list[int]) -> PipelineProblem:
    """The same pipeline with its positions in another order."""
    return replace(
        problem,
        position=tuple(order.index(position) for position in problem.position),
        limit=None if problem.limit is None else tuple(problem.limit[position] for position in order),
        update=tuple(problem.update[position] for position in order if problem.update),
    )


def _best(problem: PipelineProblem, tries: int) -> Found | None:
    """The best schedule found; None where there is no room for any."""
    bound = lower_bound(problem) * (1 + _EQUAL)
    found = list(_named(problem))
    for each in _scheduled(problem):
        found.append(each)
        if each.makespan <= bound:
            break
    if not found:
        return None
    best = _preferred(found)
    tries = min(tries, _TRIED_ACTIONS // max(1, best.rows.count))
    if best.makespan > bound and tries >= _FEWEST_TRIES:
        moved = _found(best.rows, improve(best.rows, best.codes, bound, tries))
        best = moved if moved.makespan < best.makespan * (1 - _EQUAL) else best
    return _undeferred(_smaller(best))


def _named(problem: PipelineProblem) -> Iterator[Found]:
    """The named schedules that are defined and fit."""
    for schedule in NAMED.values():
        try:
            codes = encode(problem, schedule(problem))
        except ConfigError:
            continue
        rows = rows_of(problem, deferring(problem, codes))
        if all(fits(rows, position, each) for position, each in enumerate(codes)):
            yield _found(rows, codes)


def _scheduled(problem: PipelineProblem) -> Iterator[Found]:
    """Schedules by list scheduling, the most promising first, for as many actions as are allowed in all."""
    options = {
        deferred: None for deferred in (tuple(seconds > 0 for seconds in problem.weight), (False,) * problem.segments)
    }
    ways = [(rows, priorities(rows)) for rows in (rows_of(problem, each) for each in options) if has_room(rows)]
    left = _ACTIONS
    for number in range(max((len(orders) for _, orders in ways), default=0)):
        for rows, orders in ways:
            if left > 0 and (number < _MOST_WITHOUT or any(rows.deferred) or len(options) == 1):
                left -= rows.count
                yield _found(rows, list_schedule(rows, orders[number]), orders[number])


def _smaller(best: Found) -> Found:
    """As fast, by the same order or the most promising one, with room for as few micro-batches in flight as will do."""
    priority = best.priority or priorities(best.rows)[0]
    for share in ROOM:
        rows = sized(best.rows, share)
        if has_room(rows):
            found = _found(best.rows, list_schedule(rows, priority), priority)
            if found.makespan <= best.makespan * (1 + _EQUAL):
                return min(best, found, key=lambda each: each.bytes)
    return best


def _undeferred(best: Found) -> Found:
    """As fast, without the W of those segments whose B may as well compute it."""
    problem, segments = best.rows.problem, best.rows.problem.segments
    those = [segment for segment in range(segments) if best.rows.deferred[segment]]
    for segment in those if len(those) * best.rows.count <= _TRIED_ACTIONS else ():
        rows = rows_of(problem, [each and s != segment for s, each in enumerate(best.rows.deferred)])
        row = 2 * segments + segment
        codes = [[code for code in each if code // problem.microbatches != row] for each in best.codes]
        found = _found(rows, codes)
        fit = all(fits(rows, position, each) for position, each in enumerate(codes))
        if fit and found.makespan <= best.makespan * (1 + _EQUAL / segments):
            best = found
    return best


def _preferred(found: list[Found]) -> Found:
    """The fastest; of those that are as fast, one that defers nothing, and keeps least."""
    least = min(each.makespan for each in found) * (1 + _EQUAL)
    return min((f for f in found if f.makespan <= least), key=lambda each: (any(each.rows.deferred), each.bytes))


def _found(rows: Rows, codes: list[list[int]], priority: Priority | None = None) -> Found:
    ends = run(rows, codes)
    assert ends is not None, "a schedule of our own deadlocks"
    return Found(finish(rows.problem, ends), sum(peak_bytes(rows, each) for each in codes), rows, codes, priority)


def _no_room(problem: PipelineProblem) -> str:
    needs = [0.0] * problem.positions
    for position, kept in zip(problem.position, problem.kept, strict=True):
        needs[position] += kept
    offenders = [
        f"position {position}: {need:.6g} bytes, the limit is {problem.most(position):.6g}"
        for position, need in enumerate(needs)
        if need > problem.most(position)
    ]
    rule = "every position has room for what one micro-batch keeps in all its segments"
    return refusal("schedule", "no order fits the memory", rule, offenders, "use more micro-batches, or more positions")
