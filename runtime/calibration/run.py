"""What ``mpiexec -n N python -m mpi4py -m autopar.runtime.calibration.run --out raw.json`` does: measures this machine.

All ranks measure together, and rank 0 writes what came out as JSON: how long every primitive takes by its bytes, inside a node
and between nodes, and how fast ranks compute. `autopar calibrate` runs it and turns its file into a machine profile;
on a cluster whose jobs are started in another way, this module is what to start, and `autopar calibrate --from raw.json`
does the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from autopar.errors import ConfigError, refusal
from autopar.ir.calibration_data import VERSION, Measurements, TimedComputation, TimedMove
from autopar.jobs.environment import is_terminal
from autopar.runtime.calibration.communication import kept, sent
from autopar.runtime.calibration.compute import each_alone, overlap, rates
from autopar.runtime.calibration.oversubscribed import OversubscribedTimer
from autopar.runtime.calibration.stalls import stopped
from autopar.runtime.calibration.timer import QUICK, BarrierTimer, Pace
from autopar.runtime.grid.default_world import default_world
from autopar.runtime.grid.grid import Axis
from autopar.runtime.process import set_allocator
from autopar.runtime.transport.base import Comm
from autopar.runtime.transport.world import simulated_world

Tell = Callable[[str], None]
Record = TypeVar("Record", TimedMove, TimedComputation)
_NAP = 0.02  # seconds between the looks of those that rest


def measure(world: Comm, places: Sequence[int], pace: Pace, tell: Tell) -> Measurements:
    """Everything, on all ranks of `world`. Collective; what was measured is alike on all ranks, of which one tells what it does.

    Raises ConfigError, on all ranks alike, unless the nodes hold consecutive ranks, equally many each.
    """
    start = time.perf_counter()
    each, wide = ranks_per_node(places), cores(world, places)
    clock = OversubscribedTimer(world, pace) if each > wide else BarrierTimer(world, pace)
    few = _Few(world, world.rank % each >= each - wide, pace, tell)
    moved: list[TimedMove] = []
    hidden: dict[str, float] = {}
    groups = {"intra": (world.rank // each, each), "inter": (world.rank % each, world.size // each)}
    for place, (color, size) in groups.items():
        if size > 1:
            group = world.split(color, world.rank)
            axis = Axis(place, group)
            moved += [] if moved else few.do(TimedMove, partial(kept, axis=axis))
            moved += sent(clock, axis, place, _only(tell, world))
            _only(tell, world)(f"overlap, {place}")
            hidden[place] = overlap(clock, group)
            group.free()
    computed = few.do(TimedComputation, rates)
    software = f"Python {platform.python_version()}, torch {torch.__version__}"
    return Measurements(
        VERSION, pace == QUICK, tuple(places), wide, software, time.perf_counter() - start,
        tuple(moved), tuple(computed), hidden.get("intra"), hidden.get("inter"),
        each_alone(world, pace, tell) if each <= wide else (),
        stopped(world, pace, _only(tell, world)) if each <= wide else (),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Few:
    """So many ranks of every node as it has cores, which measure what a rank does by itself; the others sleep meanwhile.

    Where more ranks than cores do the same at once, a short call takes as long as one alone, or as long as the turn of another
    rank: not what it takes in a step, in which turns are long against calls.
    """

    world: Comm
    working: bool
    pace: Pace
    tell: Tell

    def do(self, kind: type[Record], measurement: Callable[..., Iterable[Record]]) -> list[Record]:
        """What the first that works has found, on all ranks."""
        group = self.world.split(int(self.working), self.world.rank)
        records = []
        if self.working:
            records = list(measurement(clock=BarrierTimer(group, self.pace), tell=_only(self.tell, group)))
        over = self.world.start_all_reduce(torch.zeros(1))
        while not over.test():
            time.sleep(_NAP)
        group.free()
        every: list[list[dict[str, Any]]] = self.world.gather_objects([asdict(record) for record in records])  # type: ignore[assignment]
        first = next(records for records in every if records)
        return [kind(**record | {"seconds": tuple(record["seconds"])}) for record in first]


def _only(tell: Tell, group: Comm) -> Tell:
    """The first rank of a group tells."""
    return tell if group.rank == 0 else lambda text: None


def ranks_per_node(places: Sequence[int]) -> int:
    """How many consecutive ranks share a node. Raises ConfigError where that is not alike on all nodes."""
    each = list(places).count(places[0])
    if len(places) % each or any(place != rank - rank % each for rank, place in enumerate(places)):
        nodes = {place: [rank for rank, other in enumerate(places) if other == place] for place in sorted(set(places))}
        offenders = [f"a node has the ranks {', '.join(map(str, ranks))}" for ranks in nodes.values()]
        rule = "a profile is for nodes with equally many ranks each, numbered one node after another"
        fix = "start as many ranks on every host, as in `-n 4 -hosts a:2,b:2` (MPICH) or `--map-by slot`"
        raise ConfigError(refusal("calibration", "ranks lie unevenly on their nodes", rule, offenders, fix))
    return each


def cores(world: Comm, places: Sequence[int]) -> int:
    """The cores that the ranks of a node may use, on the node with fewest."""
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    everybody: list[list[int]] = world.gather_objects(own)  # type: ignore[assignment]  # what each has just given
    usable: dict[int, set[int]] = {}
    for place, mine in zip(places, everybody, strict=True):
        usable.setdefault(place, set()).update(mine)
    return min(len(cores) for cores in usable.values())


def _places(world: Comm) -> list[int]:
    if simulated_world() is not None:
        return [0] * world.size
    from autopar.runtime.transport.shared_memory import places

    return places()


def _progress(quiet: bool) -> Tell:
    """One line per thing that is measured; on a terminal each takes the place of the one before."""
    if quiet:
        return lambda text: None
    over = is_terminal()
    return lambda text: print(f"\r\033[Kmeasuring {text}" if over else f"measuring {text}", end="" if over else "\n",
                              file=sys.stderr, flush=True)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the file on rank 0."""
    parser = argparse.ArgumentParser(description="measure this machine, on all ranks of an MPI job at once")
    parser.add_argument("--out", required=True, type=Path, help="the file to write")
    parser.add_argument(
        "--quick", action="store_true", help="small tensors and few repeats: a trial, not a calibration"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    set_allocator(gives_back=False)
    world = default_world()
    tell = _progress(options.quiet)
    raw = measure(world, _places(world), QUICK if options.quick else Pace(), tell)
    if world.rank == 0:
        options.out.write_text(json.dumps(asdict(raw)) + "\n", encoding="utf-8")
        tell(f"took {raw.seconds:.0f} s" + ("\n" if is_terminal() else ""))
    world.barrier()
    world.free()


if __name__ == "__main__":
    main()
