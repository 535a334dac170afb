"""What ``mpiexec -n N python -m mpi4py -m autopar.runtime.calibration --out raw.json`` does: measures this machine.

All ranks measure together, and rank 0 writes what came out as JSON: how long every primitive takes by its bytes, inside a node
and between nodes, and how fast ranks compute. `autopar calibrate` runs it and turns its file into a machine profile;
on a cluster whose jobs are started in another way, this module is what to start, and `autopar calibrate --from raw.json`
does the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from autopar.errors import ConfigError, refusal
from autopar.measurements import VERSION, Moved, Raw
from autopar.runtime.allocator import keep_freed_memory
from autopar.runtime.calibration_clock import QUICK, Clock, Pace
from autopar.runtime.calibration_moves import movements
from autopar.runtime.calibration_rates import overlap, rates
from autopar.runtime.transport.base import Comm
from autopar.runtime.transport.staged import stage
from autopar.runtime.transport.watched import watch
from autopar.runtime.transport.world import default_world, simulated_world

Tell = Callable[[str], None]


def measure(world: Comm, places: Sequence[int], pace: Pace, tell: Tell) -> Raw:
    """Everything, on all ranks of `world`. Collective; alike on all ranks.

    Raises ConfigError, on all ranks alike, unless the nodes hold consecutive ranks, equally many each.
    """
    start = time.perf_counter()
    clock = Clock(world, pace)
    each = ranks_per_node(places)
    node = world.rank // each
    moved: list[Moved] = []
    hidden: dict[str, float] = {}
    groups = {"intra": (node, each), "inter": (world.rank % each, world.size // each)}
    for place, (color, size) in groups.items():
        if size > 1:
            group = world.split(color, world.rank)
            moved += movements(clock, group, place, not moved, tell)
            tell(f"overlap, {place}")
            hidden[place] = overlap(clock, group)
            group.free()
    computed = tuple(rates(clock, tell))
    software = f"Python {platform.python_version()}, torch {torch.__version__}"
    return Raw(
        VERSION, pace == QUICK, tuple(places), cores(world, places), software, time.perf_counter() - start,
        tuple(moved), computed, hidden.get("intra"), hidden.get("inter"),
    )  # fmt: skip


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
    found: dict[int, set[int]] = {}
    for place, mine in zip(places, everybody, strict=True):
        found.setdefault(place, set()).update(mine)
    return min(len(one) for one in found.values())


def _places(world: Comm) -> list[int]:
    if simulated_world() is not None:
        return [0] * world.size
    from autopar.runtime.transport.node import places

    return places()


def _progress(world: Comm, quiet: bool) -> Tell:
    """One line per thing that is measured, on rank 0 alone; on a terminal each takes the place of the one before."""
    if quiet or world.rank:
        return lambda text: None
    over = os.environ.get("AUTOPAR_TERMINAL") == "1"
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
    keep_freed_memory()
    world = watch(stage(default_world()))
    tell = _progress(world, options.quiet)
    raw = measure(world, _places(world), QUICK if options.quick else Pace(), tell)
    if world.rank == 0:
        options.out.write_text(json.dumps(dataclasses.asdict(raw)) + "\n", encoding="utf-8")
        tell(
            f"took {raw.seconds:.0f} s\n" if os.environ.get("AUTOPAR_TERMINAL") == "1" else f"took {raw.seconds:.0f} s"
        )
    world.barrier()
    world.free()


if __name__ == "__main__":
    main()
