"""How long every distinct call of a model takes at its exact local shapes, forward and backward, on this machine.

    job      a call under a strategy -> the line that the program would run, and the tensors that it would be given
    worker   a job -> seconds, in a process of its own
    pool     as many workers as ranks share this machine, all at the same job at the same time
    cache    what is known on disk

`measure` puts them together: calls with their strategies -> `Timings`, which the cost model takes in place of its roofline.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from autopar.costmodel.op_timings import Timings
from autopar.ir.graph import Graph
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine
from autopar.measure import cache
from autopar.measure.pool import Pool
from autopar.measure.timed_call import TimedCall, images_of, timed_call_of
from autopar.ops.record.rule import Choice
from autopar.partitioner.formulation.strategies import CallStrategies

__all__ = ["measure"]

Shown = Callable[[int, int], None]  # jobs done, of how many
_PASSES = 3


def measure(
    graph: Graph,
    calls: Mapping[str, CallStrategies],
    grid: GridShape,
    machine: Machine,
    shown: Shown = lambda done, count: None,
) -> tuple[Timings, int, int]:
    """(timings, jobs, of which newly timed). Views take no time; what cannot be run alone is left to the roofline."""
    parameters = frozenset(item.value for item in graph.parameters)
    images = images_of(graph)
    wanted: dict[tuple[str, tuple[Choice, ...]], TimedCall] = {}
    for name, item in calls.items():
        if item.op.work != "view":
            for strategy in item.strategies:
                wanted[name, strategy] = timed_call_of(item, strategy, grid, parameters, images)
    workers = max(1, min(grid.size, machine.ranks_per_node, os.cpu_count() or 1))
    jobs = list(dict.fromkeys(wanted.values()))
    known = cache.read(workers)
    todo = [one for one in jobs if cache.key(one) not in known]
    if todo:
        with Pool(workers) as pool:
            known |= _timed(pool, todo, shown)
        cache.write(workers, known)
    found = {place: known[cache.key(one)] for place, one in wanted.items()}
    return Timings({place: seconds for place, seconds in found.items() if seconds is not None}), len(jobs), len(todo)


def _timed(pool: Pool, jobs: list[TimedCall], shown: Shown) -> cache.Known:
    """Every job several times, some time apart, and the one in the middle: what else the machine did once is not the call's."""
    found: dict[str, list[tuple[float, float] | None]] = {}
    for done, one in enumerate(jobs * _PASSES):
        shown(done, _PASSES * len(jobs))
        found.setdefault(cache.key(one), []).append(pool.time(one))
    shown(_PASSES * len(jobs), _PASSES * len(jobs))
    return {key: _middle(times) for key, times in found.items()}


def _middle(times: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [one for one in times if one is not None]
    return (median(one for one, _ in known), median(one for _, one in known)) if known else None
