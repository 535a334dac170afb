"""One rank of benchmarks.rebalance: trains a compiled case under the scheduler while a competitor comes and goes.

Each rank is held to a core, in turn where there are more ranks than cores. Rank 0 starts and ends the competitor, which spins on
the core of the last rank, and prints what all ranks have measured as a line of JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from autopar.partitioner.cuts.rank_work import GridCuts, StepWork, loads
from autopar.runtime.parameters.moving.legal_cuts import cuts_of, illegal
from autopar.runtime.process import load_optimizers
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training.planned_work import planned_work
from autopar.runtime.training.scheduler import Scheduler
from benchmarks.contenders.compiled import CompiledTrainer
from benchmarks.rebalance.cases import CASES

SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
_ROWS, _MARKS = 512, 32  # places at which an axis is cut in search of the best, alone and with others


@dataclass(frozen=True, slots=True)
class Request:
    """What to run: steps in all, those before which the competitor comes and goes, and whether boundaries may move."""

    case: str
    small: bool
    folder: str
    steps: int
    slowed: int
    freed: int
    moves: bool


def main(text: str) -> None:
    request = Request(**json.loads(text))
    load_optimizers()
    torch.set_num_threads(1)
    trainer = CompiledTrainer(CASES[request.case].model(request.small), Path(request.folder))
    session, comm = trainer.session, trainer.session.grid.comm
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[trainer.rank % len(cores)]})
    scheduler = Scheduler(session, trainer.optimizer)
    seconds, compute, cuts = [], [], []
    rival: subprocess.Popen[bytes] | None = None
    for step in range(request.steps):
        if trainer.rank == 0 and step == request.slowed:
            rival = subprocess.Popen([sys.executable, "-c", SPIN, str(cores[(comm.size - 1) % len(cores)])])
            time.sleep(0.5)
        if rival is not None and step == request.freed:
            rival.kill()
            rival.wait()
        comm.barrier()
        cuts.append(tuple(axis.cuts for axis in session.grid.axes))
        start, waited = time.perf_counter(), session.communication_seconds
        if request.moves:
            with scheduler.step():
                trainer.step()
                compute.append(time.perf_counter() - start - (session.communication_seconds - waited))
        else:
            trainer.step()
            compute.append(time.perf_counter() - start - (session.communication_seconds - waited))
        seconds.append(time.perf_counter() - start)
    every = list(zip(*comm.gather_objects(compute), strict=True))
    if trainer.rank == 0:
        best = best_compute(session, cuts, every, request)
        print(json.dumps({"seconds": seconds, "compute": every, "cuts": cuts, "best": best, "said": scheduler.reason}))
    comm.barrier()
    trainer.close()


def best_compute(
    session: Parallel, cuts: Sequence[GridCuts], compute: Sequence[Sequence[float]], request: Request
) -> float:
    """The least seconds that the slowest rank can compute for beside the competitor, by what ranks took per part of their work.

    Taken where the boundaries stood last, over the steps in which they stood there.
    """
    step, last = planned_work(session), cuts[request.freed - 1]
    steps = [i for i in range(request.slowed + 1, request.freed) if cuts[i] == last]
    took = [median(compute[i][rank] for i in steps) for rank in range(session.grid.size)]
    speeds = [load / time for load, time in zip(_loads(step, last), took, strict=True)]
    return min(
        max(load / speed for load, speed in zip(_loads(step, other), speeds, strict=True))
        for other in [last, *candidates(session, step)]
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


def _loads(step: StepWork, cuts: GridCuts) -> list[float]:
    return loads(step, (1.0,) * len(step.works), cuts)


if __name__ == "__main__":
    main(sys.argv[1])
