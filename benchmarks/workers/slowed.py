"""One rank of benchmarks.rebalance: trains a compiled case under the scheduler while a competitor comes and goes.

Each rank is held to a core, in turn where there are more ranks than cores. Rank 0 starts and ends the competitor, which takes half
of the core of the last rank (`benchmarks.competitor`), and prints what all ranks have measured as a line of JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from autopar.partitioner.cuts.rank_work import GridCuts, StepWork, loads
from autopar.runtime.parameters.moving.legal_cuts import cuts_of, illegal
from autopar.runtime.process import load_optimizers
from autopar.runtime.program.pipeline import Pipeline
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training.planned_work import planned_work
from autopar.runtime.training.scheduler import Scheduler
from benchmarks.competitor import Competitor, make_way
from benchmarks.contenders.compiled import CompiledTrainer
from benchmarks.rebalance.cases import CASES

_ROWS, _MARKS = 512, 32  # places at which an axis is cut in search of the best, alone and with others


@dataclass(frozen=True, slots=True)
class Request:
    """What to run: steps in all, and those before which the competitor comes and goes."""

    case: str
    small: bool
    folder: str
    steps: int
    slowed: int
    freed: int


def main(text: str) -> None:
    request = Request(**json.loads(text))
    load_optimizers()
    torch.set_num_threads(1)
    trainer = CompiledTrainer(CASES[request.case].model(request.small), Path(request.folder))
    session, comm = trainer.session, trainer.session.grid.comm
    cores = sorted(os.sched_getaffinity(0))
    core = cores[trainer.rank % len(cores)]  # of those that the launcher leaves to this rank
    os.sched_setaffinity(0, {core})
    make_way()
    last = int(str(comm.gather_objects(core)[-1]))
    scheduler = Scheduler(session, trainer.optimizer)
    seconds, compute, waits, cuts, places, segments = [], [], [], [], [], Segments(session)
    rival: Competitor | None = None
    share = 0.0
    for step in range(request.steps):
        if trainer.rank == 0 and step == request.slowed:
            rival = Competitor(last)
        if rival is not None and step == request.freed:
            share = rival.end()
        comm.barrier()
        cuts.append(tuple(axis.cuts for axis in session.grid.axes))
        places.append(segments.places())
        start, waited = time.perf_counter(), session.communication_seconds
        with scheduler.step():
            trainer.step()
            waits.append(session.communication_seconds - waited)
            compute.append(time.perf_counter() - start - waits[-1])
        seconds.append(time.perf_counter() - start)
        segments.measure()
    if rival is not None and request.freed >= request.steps:
        share = rival.end()
    waiting = list(zip(*comm.gather_objects(waits), strict=True))
    every, of_segments = list(zip(*comm.gather_objects(compute), strict=True)), segments.told()
    if trainer.rank == 0:
        best = in_turn = 0.0
        if request.slowed < request.steps and places[0]:
            best = in_turn = best_placed(places, of_segments, request)
        elif request.slowed < request.steps:
            best, in_turn = best_compute(session, cuts, every, request)
        found = {"seconds": seconds, "compute": every, "waits": waiting, "cuts": cuts, "places": places}
        print(json.dumps(found | {"best": best, "in_turn": in_turn, "said": scheduler.reason, "share": share}))
    comm.barrier()
    trainer.close()


class Segments:
    """Where segments stand, and what they took in each step; nothing where the graph is not divided."""

    def __init__(self, session: Parallel) -> None:
        self._session = session
        self._steps: list[list[float]] = []
        self._before: list[float] = []

    def places(self) -> tuple[int, ...]:
        """The position of every segment."""
        forward = self._session.program.forward
        return tuple(segment.at for segment in forward.segments) if isinstance(forward, Pipeline) else ()

    def measure(self) -> None:
        """Note what this rank's segments took since the last time; they count anew after a move."""
        now = list(self._session.segment_seconds) if self.places() else []
        before = self._before if len(self._before) == len(now) and sum(now) >= sum(self._before) else [0.0] * len(now)
        self._steps.append([after - earlier for after, earlier in zip(now, before, strict=True)])
        self._before = now

    def told(self) -> list[list[float]]:
        """Of every step and segment the seconds of the rank that took longest. Collective."""
        every: Sequence[Any] = self._session.grid.comm.gather_objects(self._steps)
        return [[max(column) for column in zip(*ranks, strict=True)] for ranks in zip(*every, strict=True)]


def best_placed(places: Sequence[Sequence[int]], seconds: Sequence[Sequence[float]], request: Request) -> float:
    """The same of positions: every segment on any of two, at what it took before, times how much slower its position is now."""
    first = next(
        (i for i in range(request.slowed, request.freed) if places[i] != places[request.slowed]), request.freed
    )
    before, slowed = range(2, request.slowed), range(request.slowed, first)
    usual = [median(seconds[i][s] for i in before) for s in range(len(places[0]))]
    here = [[s for s, at in enumerate(places[request.slowed]) if at == position] for position in (0, 1)]
    slower = [median(sum(seconds[i][s] for s in own) for i in slowed) / sum(usual[s] for s in own) for own in here]
    every = itertools.product((0, 1), repeat=len(usual))
    return min(
        max(slower[q] * sum(t for t, at in zip(usual, one, strict=True) if at == q) for q in (0, 1)) for one in every
    )


def best_compute(
    session: Parallel, cuts: Sequence[GridCuts], compute: Sequence[Sequence[float]], request: Request
) -> tuple[float, float]:
    """The least seconds that the slowest rank can compute for beside the competitor, by what ranks took per part of their work.

    Taken where the boundaries stood last, over the steps in which they stood there. The second number is of ranks that do one kind
    of work after the other: between works that are cut into other rows, those that are done wait for the last. One fraction
    cuts all rows of an axis, and leaves every rank with another excess of each.
    """
    step, last = planned_work(session), cuts[request.freed - 1]
    steps = [i for i in range(request.slowed + 1, request.freed) if cuts[i] == last]
    took = [median(compute[i][rank] for i in steps) for rank in range(session.grid.size)]
    speeds = [load / time for load, time in zip(_loads(step, last), took, strict=True)]
    every, alone = [last, *candidates(session, step)], [replace(step, works=(work,)) for work in step.works]
    return min(_longest(step, at, speeds) for at in every), min(
        sum(_longest(work, at, speeds) for work in alone) for at in every
    )


def candidates(session: Parallel, step: StepWork) -> Iterator[GridCuts]:
    """Legal cuts: of one axis at every row of its largest extent, of several at some marks."""
    extents = [1] * len(step.sizes)
    for work in step.works:
        for axes, extent in work.factors:
            for axis in axes:
                extents[axis] = max(extents[axis], extent)
    marks = [min(extent, _MARKS if len(extents) > 1 else _ROWS) for extent in extents]
    per_axis = [
        [(0.0, *(one / n for one in inner), 1.0) for inner in itertools.combinations(range(n + 1), size - 1)]
        for n, size in zip(marks, step.sizes, strict=True)
    ]
    names = [axis.name for axis in session.grid.axes]
    for cuts in itertools.product(*per_axis):
        if not illegal(session.grid.axes, cuts_of(dict(zip(names, cuts, strict=True))), session.filled):
            yield cuts


def _longest(step: StepWork, cuts: GridCuts, speeds: Sequence[float]) -> float:
    """The seconds of the rank that takes longest."""
    return max(load / speed for load, speed in zip(_loads(step, cuts), speeds, strict=True))


def _loads(step: StepWork, cuts: GridCuts) -> list[float]:
    return loads(step, (1.0,) * len(step.works), cuts)


if __name__ == "__main__":
    main(sys.argv[1])
