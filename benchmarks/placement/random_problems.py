"""Placement problems that are drawn: chains with skips, parallel branches, and graphs without a pattern."""

from __future__ import annotations

import random

from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
from autopar.partitioner.placement.problem import CallWork, ParameterUse, PlacementProblem, TensorUse

Pairs = set[tuple[int, int]]
"""Calls of which the second reads the first."""


def random_problem(rng: random.Random, most_calls: int = 12) -> tuple[PlacementProblem, int]:
    """Of 4 calls or more on 2 or 3 positions, 1 to 4 micro-batches; and the segments per position, 2 in some of the small ones.

    Of them a third each have memory limits, unequal speeds, deferred weight gradients, tied parameters, and may leave positions
    idle. Messages cost from a fiftieth of a call's seconds to nearly as much.
    """
    count, positions = rng.randint(4, most_calls), rng.choice((2, 3))
    pairs = rng.choice((chain_with_skips, parallel_branches, any_graph))(rng, count)
    cost = rng.choice((0.02, 0.2, 0.8))
    calls = random_calls(rng, count)
    parameters = _parameters(rng, count, cost)
    unequal = rng.random() < 0.35
    speeds = [rng.choice((0.5, 1.0, 2.0)) if unequal else 1.0 for _ in range(positions)]
    memory = None
    if rng.random() < 0.35:
        saved = sum(call.saved for call in calls) * rng.uniform(1.2, 2)
        memory = (sum(each.size for each in parameters) + saved + 3) / positions * rng.uniform(1.3, 2)
    problem = PlacementProblem(
        calls,
        random_tensors(rng, pairs),
        parameters,
        tuple(PositionLimits(speed, memory) for speed in speeds),
        PositionLinks.uniform(positions, cost * 0.1, cost),
        rng.randint(1, 4),
        idle=rng.random() < 0.3,
    )
    return problem, 1 if count > 8 else rng.choice((1, 2))


def random_calls(rng: random.Random, count: int) -> tuple[CallWork, ...]:
    """Calls of uneven work, of which some have weight gradients that can be deferred."""
    ratio, deferred = rng.choice((1.0, 2.0)), rng.random() < 0.35
    calls = []
    for k in range(count):
        seconds = rng.choice((0.2, 1, 1, 2)) * rng.uniform(0.3, 1.5)
        weight = seconds * ratio / 2 if deferred and rng.random() < 0.6 else 0.0
        calls.append(CallWork(f"call{k}", seconds, seconds * ratio, weight, rng.uniform(0.5, 2), rng.uniform(0.1, 0.5)))
    return tuple(calls)


def random_tensors(rng: random.Random, pairs: Pairs) -> tuple[TensorUse, ...]:
    """One tensor of each call that others read; most of them have a gradient."""
    tensors = []
    for source in sorted({source for source, _ in pairs}):
        readers = tuple(sorted(reader for a, reader in pairs if a == source))
        size = rng.uniform(0.2, 1.5)
        tensors.append(TensorUse(f"tensor{source}", source, readers, size, size if rng.random() < 0.9 else 0.0))
    return tuple(tensors)


def _parameters(rng: random.Random, count: int, cost: float) -> tuple[ParameterUse, ...]:
    own = [
        ParameterUse(f"weight{k}", rng.uniform(0, 4), (k,), 1.0, rng.choice((0, 0.1)))
        for k in range(count)
        if rng.random() < 0.5
    ]
    if rng.random() < 0.35:
        readers = tuple(sorted(rng.sample(range(count), 2)))
        own.append(ParameterUse("tied", 3.0, readers, rng.choice((0.2, 1.0)) * cost, 0.1))
    return tuple(own)


def chain_with_skips(rng: random.Random, count: int) -> Pairs:
    """A chain, and up to two arrows that skip calls of it."""
    skips = {tuple(sorted(rng.sample(range(count), 2))) for _ in range(rng.randint(0, 2))}
    return {(k, k + 1) for k in range(count - 1)} | {(a, b) for a, b in skips}


def parallel_branches(rng: random.Random, count: int) -> Pairs:
    """Two or three branches that begin in one call and meet in another, now and then on the way as well."""
    width = rng.randint(2, 3)
    pairs: Pairs = set()
    ends = [0] * width
    for call in range(1, count):
        if call == count - 1 or rng.random() < 0.12:
            pairs |= {(end, call) for end in ends}
            ends = [call] * width
        else:
            branch = rng.randrange(width)
            pairs.add((ends[branch], call))
            ends[branch] = call
    return pairs


def any_graph(rng: random.Random, count: int) -> Pairs:
    """Each call reads one or two of those before it; what nothing reads goes to the last one."""
    pairs = {(a, b) for b in range(1, count) for a in rng.sample(range(b), min(b, rng.choice((1, 1, 2))))}
    read = {a for a, _ in pairs}
    return pairs | {(a, count - 1) for a in range(count - 1) if a not in read}
