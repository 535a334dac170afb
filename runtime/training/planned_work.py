"""What the plan says a rank computes, by the axes of the live grid: from a `Description` to the works that are balanced."""

from __future__ import annotations

import itertools

from autopar.partitioner.cuts.rank_work import RankWork, StepWork
from autopar.runtime.program.pipeline import Pipeline
from autopar.runtime.session.parallel_module import Parallel


def planned_work(parallel: Parallel) -> StepWork:
    """The works of a step, those of each segment on the position where it stands."""
    shape, forward = parallel.grid.shape, parallel.program.forward
    standing = [segment.at for segment in forward.segments] if isinstance(forward, Pipeline) else [0]
    numbers = {name: axis for axis, name in enumerate(shape.names)}
    totals: dict[tuple[tuple[tuple[int, ...], int], ...], list[float]] = {}
    for work in parallel.description.work:
        factors = tuple((tuple(numbers[name] for name in names), extent) for names, extent in work.cuts)
        seconds = totals.setdefault(factors, [0.0] * shape.positions)
        seconds[standing[work.segment]] += work.seconds
    works = tuple(RankWork(factors, tuple(seconds)) for factors, seconds in totals.items())
    return StepWork(shape.sizes, works, shape.positions)


def cut_extents(step: StepWork) -> tuple[tuple[int, ...], ...]:
    """The rows that each axis of more than one rank cuts, of works that are cut by it first."""
    found: list[set[int]] = [set() for _ in step.sizes]
    for work in step.works:
        for axes, extent in work.factors:
            found[axes[0]].add(extent)
            for outer, inner in itertools.pairwise(axes):
                extent = max(1, extent // step.sizes[outer])
                found[inner].add(extent)
    return tuple(tuple(sorted(extents)) if size > 1 else () for extents, size in zip(found, step.sizes, strict=True))
