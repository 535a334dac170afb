"""Pipelines for tests: equal segments, and drawn ones with branches, skips and several segments a position."""

from __future__ import annotations

import random

from autopar.partitioner.schedules.pipeline_problem import PipelineProblem, SegmentEdge


def equal_pipeline(positions, microbatches, rounds=1, forward=1.0, backward=2.0, weight=0.75, limit=None):
    """A chain that goes round the positions; seconds and bytes are those of a position, divided over its segments."""
    count = positions * rounds
    per_segment = [(each / rounds,) * count for each in (forward, backward, weight, 1.0, 1.0)]
    edges = tuple(SegmentEdge(k, k + 1) for k in range(count - 1))
    limits = None if limit is None else (limit,) * positions
    return PipelineProblem(
        positions, microbatches, tuple(k % positions for k in range(count)),
        *per_segment[:3], edges, *per_segment[3:], limits,
    )  # fmt: skip


def random_pipeline(rng: random.Random, positions, microbatches, segments=None, limited=False, deferred=True):
    """Uneven segments on drawn positions, a graph of edges with skips, limits between the least that works and all."""
    count = segments or rng.randint(positions, 2 * positions + 1)
    position = [rng.randrange(positions) for _ in range(count)]
    backward = [rng.choice((1, 2, 3)) * rng.uniform(0.3, 2) for _ in range(count)]
    pairs = {(k, k + 1) for k in range(count - 1) if rng.random() < 0.8}
    pairs |= {(a, b) for a in range(count) for b in range(a + 2, count) if rng.random() < 0.15}
    edges = tuple(
        SegmentEdge(a, b, rng.choice((0, 0.1, 1.0)), rng.choice((0, 0.1, 1.0)), gradient=rng.random() < 0.9)
        for a, b in sorted(pairs)
    )
    kept = [rng.uniform(0.5, 2) for _ in range(count)]
    one = [sum(kept[k] for k in range(count) if position[k] == at) for at in range(positions)]
    return PipelineProblem(
        positions,
        microbatches,
        tuple(position),
        tuple(rng.uniform(0.3, 2) for _ in range(count)),
        tuple(backward),
        tuple(rng.choice((0, 0.3, 0.5)) * each if deferred else 0.0 for each in backward),
        edges,
        tuple(kept),
        tuple(rng.uniform(0.3, 1) * each for each in kept),
        tuple(each * rng.uniform(1, microbatches) for each in one) if limited else None,
        tuple(rng.choice((0.0, 1.0)) for _ in range(positions)),
    )
