"""One rank of `benchmarks.queue`: the three ways to divide a batch take turns, with and without stalls.

python -m benchmarks.queue.worker FOLDER ROUNDS STEPS MICROBATCHES SMALL
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

import torch
from torch import Tensor

import autopar
from autopar.runtime.pipeline.microbatch_queue import QueuedStep
from autopar.runtime.session.parallel_module import Parallel
from benchmarks.models import Inputs, Model, batch, loss_of, seeded, short_gpt2

STALLING = "stalling"
TIMES = 4  # the model's batch, so that a step takes many stalls
CHECKED = 40  # steps of which gradients are compared


@dataclass(slots=True)
class Way:
    """A way to divide the batch: the wall seconds of steps, and the mean loads of those under stalls."""

    parallel: Parallel
    optimizer: torch.optim.Optimizer
    quiet: list[float] = field(default_factory=list)
    stalled: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)  # by rank 0, of the micro-batches of every step
    shares: list[float] = field(default_factory=list)  # the same of steps under stalls

    def step(self, inputs: Inputs) -> tuple[float, float]:
        """Wall seconds, and the mean over the ranks of those outside of communication."""
        start, waited = time.perf_counter(), self.parallel.communication_seconds
        self.optimizer.zero_grad()
        loss_of(self.parallel(**inputs)).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        wall = time.perf_counter() - start
        own = wall - (self.parallel.communication_seconds - waited)
        return wall, mean(map(float, map(str, self.parallel.grid.comm.gather_objects(own))))


def ways(model: Model, inputs: Inputs, microbatches: int) -> dict[str, Way]:
    """All of them, compiled and made."""

    def made(grid: str, plan: str, count: int | None) -> Way:
        parallel = autopar.parallelize(
            seeded(model), inputs, grid=grid, plan=plan, microbatches=count, optimizer="sgd", name=model.name
        )
        return Way(parallel, torch.optim.SGD(parallel.parameters(), lr=model.rate))

    found = {
        "queue": made("queue:2", "auto", microbatches),
        "halves": made("queue:2", "auto", microbatches),
        "batch": made("2", "data", None),
    }
    for name, way in found.items():
        if (queue := way.parallel._queue) is not None:
            _watch(way, queue, static=name == "halves")
    return found


def _watch(way: Way, queue: object, *, static: bool) -> None:
    """Note what rank 0 draws; or let it have the first half of the micro-batches, whoever is free."""
    begin = queue.step  # type: ignore[attr-defined]

    def step(count: int, tensors: dict[str, Tensor]) -> QueuedStep:
        begun: QueuedStep = begin(count, tensors)
        drawn = begun.draws

        def draws(forward: object) -> Iterator[int]:
            half = count // 2
            mine = range(half, count) if begun.axis.index else range(half)
            for number in mine if static else drawn(forward):  # type: ignore[arg-type]
                done[0] += 1
                yield number

        done = [0]
        begun.draws = draws  # type: ignore[method-assign]
        way.drawn.append(0.0)
        settled = begun.settled

        def counted(losses: dict[int, Tensor], device: torch.device) -> Tensor:
            way.drawn[-1] = done[0] / count
            return settled(losses, device)

        begun.settled = counted  # type: ignore[method-assign, assignment]
        return begun

    queue.step = step  # type: ignore[attr-defined]


@contextmanager
def stalls(folder: Path, parallel: Parallel) -> Iterator[None]:
    """Ranks are stalled in the context."""
    first = parallel.grid.rank == 0
    if first:
        (folder / STALLING).touch()
    parallel.grid.comm.barrier()
    yield
    parallel.grid.comm.barrier()
    if first:
        (folder / STALLING).unlink()
    parallel.grid.comm.barrier()
    time.sleep(0.3)  # a stall that was under way


def measured(found: dict[str, Way], inputs: Inputs, rounds: int, steps: int, folder: Path) -> None:
    """Let the ways take turns."""
    for way in found.values():
        for _ in range(2):
            way.step(inputs)
    for _ in range(rounds):
        for way in found.values():
            way.quiet += [way.step(inputs)[0] for _ in range(steps)]
            count = len(way.drawn)
            with stalls(folder, way.parallel):
                every = [way.step(inputs) for _ in range(steps)]
            way.shares += way.drawn[count:]
            way.stalled += [wall for wall, _ in every]
            way.loads += [load for _, load in every]


def difference(microbatches: int, folder: Path) -> float:
    """The largest relative difference of a gradient from the model's own, over steps under stalls, in float64."""
    model = short_gpt2(True)
    inputs, alone = batch(model), seeded(model).double()
    parallel = autopar.parallelize(
        seeded(model).double(), inputs, grid="queue:2", microbatches=microbatches, name="check"
    )
    loss_of(alone(**inputs)).backward()  # type: ignore[no-untyped-call]
    worst = 0.0
    with stalls(folder, parallel):
        for _ in range(CHECKED):
            parallel.zero_grad()
            loss_of(parallel(**inputs)).backward()  # type: ignore[no-untyped-call]
            for name, gradient in parallel.full_gradients().items():
                own = dict(alone.named_parameters())[name].grad
                assert own is not None
                worst = max(worst, float((gradient - own).abs().max() / own.abs().max()))
    return worst


def main() -> None:
    folder, (rounds, steps, microbatches, small) = Path(sys.argv[1]), map(int, sys.argv[2:])
    torch.set_num_threads(1)
    model = short_gpt2(bool(small))
    inputs = {name: torch.cat([x] * TIMES) for name, x in batch(model).items()}
    found = ways(model, inputs, min(microbatches, next(iter(inputs.values())).shape[0] // 2))
    grid = found["queue"].parallel.grid
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[grid.rank % len(cores)]})
    (folder / f"pid_{grid.rank}").write_text(str(os.getpid()))
    grid.comm.barrier()
    measured(found, inputs, rounds, steps, folder)
    apart = difference(8, folder)
    if grid.rank == 0:
        results = {
            name: {"quiet": median(way.quiet), "stalled": mean(way.stalled), "load": mean(way.loads)}
            for name, way in found.items()
        }
        results["queue"]["drawn"] = mean(found["queue"].shares)
        results["check"] = {"difference": apart}
        (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
