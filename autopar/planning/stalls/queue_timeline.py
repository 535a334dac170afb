"""A training step whose micro-batches replicas draw from a queue, as events in time.

Each replica carries out the tasks of one micro-batch after another, on a timeline of its own (`autopar.costmodel.timeline`): its
slow ranks make every one of them longer, jitter each anew. Whoever is free first draws the next. When the queue is empty all wait
for the last; then the gradients are summed over the replicas, and every rank updates its parameters.

    step  =  max over replicas (end of the last micro-batch drawn)  +  sums  +  max over ranks (update)
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autopar.costmodel.timeline import Event, Ranks, Task, simulate
from autopar.ir.grid import GridShape

_BEHIND = ("gradients", "update")


@dataclass(frozen=True, slots=True)
class QueueNoise:
    """Factors of slow ranks, the spread of jitter and its seed, as of `simulate`."""

    slow: Mapping[int, float]
    jitter: float = 0.0
    seed: int = 0

    def of_replica(self, replica: int, ranks: int) -> Mapping[int, float]:
        """The slow ranks of a replica of so many ranks, by their numbers in it."""
        first = replica * ranks
        return {rank - first: factor for rank, factor in self.slow.items() if first <= rank < first + ranks}


@dataclass(frozen=True, slots=True)
class Drawn:
    """Who draws which micro-batch, and when: per replica (number, start, end) in order, and when the last is done."""

    draws: tuple[tuple[tuple[int, float, float], ...], ...]

    @property
    def end(self) -> float:
        """When all are done."""
        return max((end for every in self.draws for _, _, end in every), default=0.0)


def drawn(microbatches: int, seconds: Sequence[Sequence[float]]) -> Drawn:
    """Let each replica draw whenever it is free; ``seconds[r][m]`` is what micro-batch m takes replica r.

    >>> [[number for number, _, _ in every] for every in drawn(4, [[1, 1, 1, 1], [2.5, 2.5, 2.5, 2.5]]).draws]
    [[0, 2, 3], [1]]
    """
    free = [(0.0, replica) for replica in range(len(seconds))]
    draws: list[list[tuple[int, float, float]]] = [[] for _ in seconds]
    for number in range(microbatches):
        start, replica = heapq.heappop(free)
        end = start + seconds[replica][number]
        draws[replica].append((number, start, end))
        heapq.heappush(free, (end, replica))
    return Drawn(tuple(map(tuple, draws)))


def one_microbatch(tasks: Sequence[Task], rounds: int) -> tuple[Task, ...]:
    """The tasks of one micro-batch, from those of a step in which a rank computes so many."""
    return tuple(replace(task, seconds=task.seconds / rounds) for task in tasks if task.kind not in _BEHIND)


def simulate_queue(
    tasks: Sequence[Task],
    grid: GridShape,
    microbatches: int,
    rounds: int,
    noise: QueueNoise,
    *,
    steps: int = 1,
    watch: Sequence[int] = (0,),
) -> Ranks:
    """Let the replicas of a grid with a queue compute `steps` steps; `tasks` are those of a step that lasts so many `rounds`."""
    size = math.prod(grid.sizes)
    tasks_of_one = one_microbatch(tasks, rounds)
    runs = [
        simulate(
            tasks_of_one, grid.sizes, slow=noise.of_replica(replica, size), jitter=noise.jitter,
            seed=noise.seed * grid.replicas + replica, steps=microbatches * steps, watch=range(size),
        )
        for replica in range(grid.replicas)
    ]  # fmt: skip
    sums = sum(task.seconds + task.hidden for task in tasks if task.kind == "gradients")
    update = sum(task.seconds for task in tasks if task.kind == "update")
    updates = np.array([update * noise.slow.get(rank, 1.0) for rank in range(grid.size)])
    every = [
        drawn(microbatches, [run.steps[step * microbatches : (step + 1) * microbatches] for run in runs])
        for step in range(steps)
    ]
    share = np.repeat([_share(run, [one.draws[replica] for one in every]) for replica, run in enumerate(runs)], size)
    compute, communication, waiting = (
        np.concatenate([getattr(run, name) for run in runs]) * share for name in ("compute", "communication", "waiting")
    )
    total = sum(one.end for one in every) + steps * (sums + float(updates.max()))
    exposed = np.full(grid.size, steps * sums)
    compute = compute + steps * updates
    waiting = waiting + (total - compute - communication - exposed - waiting)
    durations = tuple(one.end + sums + float(updates.max()) for one in every)
    events = {
        rank: _events(runs[rank // size].events[rank % size], every[0], rank // size, sums, float(updates[rank]))
        for rank in watch
    }
    return Ranks(durations, compute, communication, exposed, waiting, steps * sums, events)


def _share(run: Ranks, draws: Sequence[Sequence[tuple[int, float, float]]]) -> float:
    """Which part of a replica's timeline, in which it computes every micro-batch, are those that it has drawn."""
    return sum(end - start for every in draws for _, start, end in every) / (sum(run.steps) or 1.0)


def _events(one: Sequence[Event], step: Drawn, replica: int, sums: float, update: float) -> tuple[Event, ...]:
    """What a rank does in a step: its micro-batches, each as the first of its timeline, then sums and update."""
    length = max((event.end for event in one), default=0.0) or 1.0
    events: list[Event] = []
    last = 0.0
    for _, start, end in step.draws[replica]:
        scale = (end - start) / length
        events += [replace(each, start=start + each.start * scale, end=start + each.end * scale) for each in one]
        last = end
    marks = [("the queue is empty", "wait", last, step.end), ("gradient sums", "gradients", step.end, step.end + sums)]
    marks.append(("update", "update", step.end + sums, step.end + sums + update))
    events += [Event(name, kind, "compute", start, end) for name, kind, start, end in marks if end > start]
    return tuple(events)
