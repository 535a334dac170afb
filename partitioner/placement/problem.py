"""What is to be placed: calls with their work, the tensors between them, parameters, and the positions that they may go to.

The training graph as numbers. Every call has a forward and a backward part, both on the position where the call stands, and
its parameters with gradients and optimizer state lie there too. No torch, no graph: names are for messages only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from autopar.errors import ConfigError, InfeasiblePlan, refusal
from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
from autopar.ir.units import bytes_text

WHERE = "placement"
_MOST_NAMED = 12


@dataclass(frozen=True, slots=True)
class CallWork:
    """One call, per micro-batch and on a position of speed 1.

    Seconds of its `forward`, its whole `backward`, and of `weight`, the part of backward that can be deferred; bytes `saved`
    from forward to backward, and `held` from there to the deferred part.
    """

    name: str
    forward: float
    backward: float
    weight: float = 0.0
    saved: float = 0.0
    held: float = 0.0


@dataclass(frozen=True, slots=True)
class TensorUse:
    """A tensor that one call makes and others read: bytes per micro-batch of it, and of its gradient (0: it has none).

    To a position it is sent once, however many readers it has there.
    """

    name: str
    source: int
    readers: tuple[int, ...]
    size: float
    gradient: float = 0.0


@dataclass(frozen=True, slots=True)
class ParameterUse:
    """A parameter: bytes of its `gradient`, and of all that lies on a position that uses it (itself, gradient, state).

    Where its readers stand on several positions, each has a replica, and the gradient is summed over these once a step.
    `update` is the optimizer's seconds for it on speed 1, in every replica.
    """

    name: str
    size: float
    readers: tuple[int, ...]
    gradient: float = 0.0
    update: float = 0.0


@dataclass(frozen=True, slots=True)
class PlacementProblem:
    """Calls in a topological order, what they exchange and read, and the positions (see the classes above).

    `pins` are pairs (call, position) that must be, `bans` pairs that must not. With `idle`, a position may stay without a
    call, which is best where messages cost more than the work that they assign; without, every position has one.
    """

    calls: tuple[CallWork, ...]
    tensors: tuple[TensorUse, ...]
    parameters: tuple[ParameterUse, ...]
    positions: tuple[PositionLimits, ...]
    links: PositionLinks
    microbatches: int = 1
    pins: tuple[tuple[int, int], ...] = ()
    bans: tuple[tuple[int, int], ...] = ()
    idle: bool = False
    allowed: tuple[frozenset[int], ...] = field(init=False)
    """The positions that pins and bans leave each call."""

    def __post_init__(self) -> None:
        everywhere = frozenset(range(len(self.positions)))
        allowed = [everywhere] * len(self.calls)
        for call, position in self.pins:
            allowed[call] &= {position}
        for call, position in self.bans:
            allowed[call] -= {position}
        object.__setattr__(self, "allowed", tuple(allowed))

    @property
    def speeds(self) -> list[float]:
        """The speed of each position."""
        return [each.speed for each in self.positions]

    @property
    def memories(self) -> list[float]:
        """The memory of each position; `inf` where it has no limit."""
        return [math.inf if each.memory is None else each.memory for each in self.positions]


def check(problem: PlacementProblem, segments_per_position: int = 1) -> None:
    """Refuses what cannot be placed at all: ConfigError for what was asked, InfeasiblePlan for memory."""
    _assert_sound(problem)
    if segments_per_position < 1 or problem.microbatches < 1:
        given = f"{segments_per_position} segments per position, {problem.microbatches} micro-batches"
        raise ConfigError(refusal(WHERE, given, "both are 1 or more"))
    if len(problem.positions) > len(problem.calls) and not problem.idle:
        given = f"{len(problem.positions)} positions for {len(problem.calls)} calls"
        rule = "every position of a place axis computes at least one call"
        fix = f"a place axis of {len(problem.calls)} or fewer positions"
        raise ConfigError(refusal(WHERE, given, rule, _named(problem, range(len(problem.calls))), fix))
    nowhere = [call for call, allowed in enumerate(problem.allowed) if not allowed]
    if nowhere:
        rule = "a call stands on one position, which its pins agree on and its bans leave"
        fix = "take back one of the pins or bans on these calls"
        raise ConfigError(refusal(WHERE, f"{len(nowhere)} calls have no position", rule, _named(problem, nowhere), fix))
    _check_ways(problem, segments_per_position)
    if not problem.idle:
        _check_used(problem)
    _check_memory(problem)


def _check_ways(problem: PlacementProblem, most: int) -> None:
    """Pins and bans that lead a way to a position and away from it more often than it has segments."""
    for position in sorted({min(allowed) for allowed in problem.allowed if len(allowed) == 1}):
        way = _back_and_forth(problem, position)
        stretches = (len(way) + 1) // 2
        if stretches > most:
            given = (
                f"pins lead a way through the calls to position {position} {stretches} times, and away from it between"
            )
            rule = f"a segment runs as a whole, and a position has at most {most}"
            fix = f"--segments {stretches}, or fewer pins and bans"
            raise ConfigError(refusal(WHERE, given, rule, _named(problem, way), fix))


def _back_and_forth(problem: PlacementProblem, position: int) -> tuple[int, ...]:
    """The way that goes to a position most often: a call that must be there, one that must not, and so on in turn."""
    before, _ = neighbours(problem)
    there: list[tuple[int, ...]] = []  # ways on which the last call that must or must not be there must; empty for none
    away: list[tuple[int, ...]] = []
    for call, allowed in enumerate(problem.allowed):
        stays = max((there[source] for source in before[call]), key=len, default=())
        left = max((away[source] for source in before[call]), key=len, default=())
        if allowed == {position}:
            stays, left = max(stays, (*left, call), key=len), ()
        elif position not in allowed:
            stays, left = (), max(left, (*stays, call) if stays else (), key=len)
        there.append(stays)
        away.append(left)
    return max([*there, *away], key=len)


def _assert_sound(problem: PlacementProblem) -> None:
    """Numbers out of range are mistakes of the caller's, not of a user's."""
    calls, positions = range(len(problem.calls)), range(len(problem.positions))
    assert calls, "nothing to place"
    assert positions, "nowhere to place it"
    for tensor in problem.tensors:
        assert all(0 <= tensor.source < reader < len(calls) for reader in tensor.readers), tensor
    assert all(reader in calls for each in problem.parameters for reader in each.readers)
    assert all(call in calls and position in positions for call, position in problem.pins + problem.bans)
    assert all(each.speed > 0 for each in problem.positions), "a position without speed"
    assert all(0 <= each.weight <= each.backward and each.forward >= 0 for each in problem.calls)
    assert all(len(row) == len(positions) for table in (problem.links.alpha, problem.links.beta) for row in table)


def _check_used(problem: PlacementProblem) -> None:
    """Every position needs a call of its own: a matching of positions to calls, by augmenting paths."""
    owner: dict[int, int] = {}

    def augment(position: int, seen: set[int]) -> bool:
        for call, allowed in enumerate(problem.allowed):
            if position in allowed and call not in seen:
                seen.add(call)
                if call not in owner or augment(owner[call], seen):
                    owner[call] = position
                    return True
        return False

    bare = [position for position in range(len(problem.positions)) if not augment(position, set())]
    if bare:
        rule = (
            "every position of a place axis computes at least one call, and pins and bans leave these none of their own"
        )
        fix = "fewer positions, or fewer pins and bans"
        offenders = [f"position {position}" for position in bare]
        raise ConfigError(
            refusal(
                WHERE,
                f"{len(bare)} position{'s stay' if len(bare) > 1 else ' stays'} without a call",
                rule,
                offenders,
                fix,
            )
        )


def _check_memory(problem: PlacementProblem) -> None:
    """What no placement can hold: one call with its parameters, or all parameters together."""
    memories = problem.memories
    held = [call.saved for call in problem.calls]
    for parameter in problem.parameters:
        for reader in set(parameter.readers):
            held[reader] += parameter.size
    large = [call for call, allowed in enumerate(problem.allowed) if held[call] > max(memories[q] for q in allowed)]
    if large:
        offenders = [f"{problem.calls[call].name}: {bytes_text(held[call])}" for call in large]
        rule = "a position holds the parameters of its calls, and what one micro-batch saves for backward"
        given = f"calls that need more memory than any position has that they may go to ({bytes_text(max(memories))})"
        fix = "more memory, more micro-batches, or a larger grid of the other axes"
        raise InfeasiblePlan(refusal(WHERE, given, rule, _first(offenders), fix))
    total = sum(each.size for each in problem.parameters) + _saved_at_once(problem)
    if total > sum(memories):
        given = f"{bytes_text(total)} on {len(memories)} positions with {bytes_text(sum(memories))} together"
        rule = "parameters, and what one micro-batch saves for backward, lie on some position"
        raise InfeasiblePlan(refusal(WHERE, given, rule, fix="more positions, more memory, or more micro-batches"))


def _saved_at_once(problem: PlacementProblem) -> float:
    """Bytes that one micro-batch holds when all have run whose backward waits for the last one's."""
    return sum(problem.calls[call].saved for call in waiting(problem)[1])


def waiting(problem: PlacementProblem) -> tuple[int, set[int]]:
    """The last call whose own backward waits for no other's, and with it all from which gradients lead back from there.

    When it runs, these have run, and none of them has begun its backward.
    """
    readers: list[set[int]] = [set() for _ in problem.calls]
    for tensor in problem.tensors:
        if tensor.gradient:
            readers[tensor.source].update(tensor.readers)
    last = max(call for call, after in enumerate(readers) if not after)
    reached = {last}
    for call in range(last - 1, -1, -1):
        if readers[call] & reached:
            reached.add(call)
    return last, reached


def _named(problem: PlacementProblem, calls: Iterable[int]) -> list[str]:
    return _first([problem.calls[call].name for call in calls])


def _first(offenders: list[str]) -> list[str]:
    """The first of many offenders, and how many there are beside."""
    rest = len(offenders) - _MOST_NAMED
    return [*offenders[:_MOST_NAMED], f"and {rest} more"] if rest > 1 else offenders


def kinds(problem: PlacementProblem) -> list[int]:
    """For each position the first one that it is like: the two may change places in every placement."""
    found: list[int] = []
    for b in range(len(problem.positions)):
        found.append(next((a for a in sorted(set(found)) if _alike(problem, a, b)), b))
    return found


def _alike(problem: PlacementProblem, a: int, b: int) -> bool:
    """Whether two positions may change places: of one speed and memory, with links, pins and bans that do not tell them apart."""
    order = list(range(len(problem.positions)))
    order[a], order[b] = b, a
    heeded = all((a in allowed) == (b in allowed) for allowed in problem.allowed)
    return (
        problem.positions[a] == problem.positions[b]
        and heeded
        and all(
            table[i][j] == table[order[i]][order[j]]
            for table in (problem.links.alpha, problem.links.beta)
            for i in order
            for j in ({a, b} if i not in (a, b) else order)
            if i != j
        )
    )


def neighbours(problem: PlacementProblem) -> tuple[list[set[int]], list[set[int]]]:
    """The calls before and after each call."""
    before: list[set[int]] = [set() for _ in problem.calls]
    after: list[set[int]] = [set() for _ in problem.calls]
    for source, reader in arrows(problem):
        before[reader].add(source)
        after[source].add(reader)
    return before, after


def arrows(problem: PlacementProblem) -> Iterator[tuple[int, int]]:
    """The pairs of calls of which one reads what the other makes."""
    return ((tensor.source, reader) for tensor in problem.tensors for reader in tensor.readers)
