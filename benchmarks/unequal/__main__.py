"""Is a plan for unequal ranks as fast as it can be, and as fast as it says? Half of the ranks have half the speed and memory.

    python -m benchmarks.unequal [--grid 2|4|2x2] [--model NAME] [--json]      two to four minutes on two idle cores

Ranks are held to cores, and a competitor takes exactly half of the core of each rank of the second half (`benchmarks.competitor`).
With four ranks on two cores all have half of a core, and the slow ones a quarter. The machine is calibrated without the
competitors (or given by --machine), and its profile is told of the slow ranks: half of the memory, and the speed that products
of matrices have beside a competitor (0.47 or so: after each of its turns caches are cold). What the others may hold is a little
more than the equal division takes, so that it would not fit on the slow ranks.

    before     the equal division without competitors
    equal      the same with them
    planned    the plan for these ranks with them; it takes turns with the equal division

The best possible follows from `before` by arithmetic: as much work by ranks of speeds v_r takes before * n / sum_r v_r. The
bar: planned takes at most 1.1 times that, its predicted step is within 10 % of the measured one, and no rank holds more than
it may.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

import autopar
from autopar.compiler import Compiled
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine, RankClass, load
from autopar.ir.machine_schema import interval_text
from autopar.ir.units import bytes_text, fraction_text
from benchmarks.competitor import Competitor, speed_beside
from benchmarks.contenders import HELD
from benchmarks.contenders.held import core_of
from benchmarks.jobs import Job, take_turns
from benchmarks.models import EVERY, Model, batch, seeded
from benchmarks.options import add_json, add_small, add_turns, described

MEMORY = 0.5  # of the slow ranks, over the others'
ROOM = 1.2  # times what the equal division takes
BAR = 1.1
WARM = 2


@dataclass(frozen=True, slots=True)
class RankResult:
    """One rank of the planned division: predicted and measured compute seconds, and bytes at the peak, and what it may hold."""

    speed: float
    predicted: float
    measured: float
    memory: float
    predicted_peak: int
    measured_peak: int


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds of a step, by way, what each rank did, and the share of their cores that the competitors had."""

    model: str
    grid: str
    cuts: dict[str, list[float]]
    before: float
    equal: float
    planned: float
    first: float
    predicted: float
    predicted_before: float
    speeds: tuple[float, ...]
    ranks: tuple[RankResult, ...]
    taken: tuple[float, ...]

    @property
    def best(self) -> float:
        """What as much work takes at these speeds, if all finish together."""
        return self.before * len(self.speeds) / sum(self.speeds)

    @property
    def met(self) -> dict[str, bool]:
        """The bar, part by part."""
        return {
            "at most 1.1 times the best possible": self.planned <= BAR * self.best,
            "predicted within 10 % of measured": abs(self.predicted / self.planned - 1) <= BAR - 1,
            "no rank holds more than it may": all(one.measured_peak <= one.memory for one in self.ranks),
        }


def measured(model: Model, options: argparse.Namespace) -> Result:
    """Everything, for one model on one grid."""
    grid = GridShape.parse(options.grid)
    slow, name = slow_ranks(grid.size), model.name
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        machine = machine_of(options, folder, grid)
        equal = compiled(model, machine, options)
        plain = int(equal.plan.predicted.bytes * ROOM)
        speed, _ = speed_beside(cores_of(slow, grid.size)[-1])
        own = RankClass(ranks=interval_text(slow), speed=round(speed, 3), memory_bytes=int(plain * MEMORY))
        planned = compiled(model, replace(machine, memory_bytes=plain, ranks=(own,)), options)
        jobs: dict[str, Job] = {}
        try:
            for way, one in (("equal", equal), ("planned", planned)):
                (folder / way).mkdir()
                one.save(folder / way / "compiled")
                jobs[way] = Job(replace(HELD, processes=grid.size), name, options.small, folder / way)
            before = median(jobs["equal"].steps(WARM + options.steps).seconds[WARM:])
            with competitors(grid.size) as taken:
                first = jobs["planned"].steps(1).seconds[0]
                turns = take_turns(jobs, options.rounds, options.steps, Console(stderr=True), settle=WARM)
            peaks = jobs["planned"].peaks()
        finally:
            for job in jobs.values():
                job.close()
        took = json.loads((folder / "planned" / "compute.json").read_text())
        seconds = {way: median(step for round in turn.rounds for step in round) for way, turn in turns.items()}
        plan = planned.plan
        ranks = tuple(
            RankResult(one.speed, one.compute + one.update, median(times), one.memory, one.peak, peak)
            for one, times, peak in zip(plan.ranks, zip(*took[1:-1], strict=True), peaks, strict=True)
        )
        return Result(
            name, options.grid, {axis: list(cuts) for axis, cuts in plan.cuts}, before, seconds["equal"],
            seconds["planned"], first, plan.predicted.seconds, equal.plan.predicted.seconds,
            plan.machine.speeds(grid.size), ranks, tuple(taken),
        )  # fmt: skip


def slow_ranks(ranks: int) -> range:
    """The second half of the ranks."""
    return range(ranks // 2, ranks)


@contextmanager
def competitors(ranks: int) -> Iterator[list[float]]:
    """A competitor on the core of every slow rank. The list gets the share that each had, at the end."""
    running = [Competitor(core) for core in cores_of(slow_ranks(ranks), ranks)]
    taken: list[float] = []
    try:
        yield taken
    finally:
        taken += [one.end() for one in running]


def cores_of(some: range, ranks: int) -> list[int]:
    """The cores of some of the ranks."""
    cores = sorted(os.sched_getaffinity(0))
    return sorted({core_of(rank, ranks, cores) for rank in some})


def machine_of(options: argparse.Namespace, folder: Path, grid: GridShape) -> Machine:
    """The profile that is given, or that of this machine with as many ranks as the grid has."""
    if options.machine or options.small:
        return load(options.machine or "cpu")
    file = folder / "machine.toml"
    words = ["calibrate", "-n", str(grid.size), "-o", str(file), "--accept-noise"]
    subprocess.run([sys.executable, "-m", "autopar", *words], check=True, stdout=sys.stderr)
    return replace(load(file), ranks=())


def compiled(model: Model, machine: Machine, options: argparse.Namespace) -> Compiled:
    """The model compiled for a machine; calls are timed on this one."""
    return autopar.compile(
        seeded(model), batch(model), grid=options.grid, machine=machine, optimizer="sgd", name=model.name, pin=options.pin,
        measure=options.measure and not options.small,
    )  # fmt: skip


def show(result: Result, log: Console) -> None:
    """Tables for people."""
    cuts = "; ".join(f"{axis} at {', '.join(map(fraction_text, every[1:-1]))}" for axis, every in result.cuts.items())
    table = Table("step", "measured", "predicted", "of the best possible", box=None)
    rows = (
        ("before: equal parts, no competitor", result.before, result.predicted_before),
        ("equal parts", result.equal, None),
        (f"planned ({cuts or 'balanced'})", result.planned, result.predicted),
        ("its first step, buffers made", result.first, None),
        ("best possible, by arithmetic", result.best, None),
    )
    for title, seconds, predicted in rows:
        said = "" if predicted is None else f"{predicted * 1e3:.1f} ms ({predicted / seconds - 1:+.1%})"
        table.add_row(title, f"{seconds * 1e3:.1f} ms", said, f"{seconds / result.best:.3f}")
    log.print(f"{result.model} on grid {result.grid}, ranks of speeds {', '.join(f'{v:g}' for v in result.speeds)}")
    log.print(table)
    table = Table("rank", "speed", "compute", "predicted", "peak", "predicted", "may hold", box=None)
    for i, one in enumerate(result.ranks):
        seconds = f"{one.measured * 1e3:.1f} ms", f"{one.predicted * 1e3:.1f} ms"
        sizes = bytes_text(one.measured_peak), bytes_text(one.predicted_peak), bytes_text(one.memory)
        table.add_row(str(i), f"{one.speed:g}", *seconds, *sizes)
    log.print(table)
    log.print(f"the competitors had {', '.join(f'{share:.1%}' for share in result.taken)} of their cores")
    for what, met in result.met.items():
        log.print(f"  {'met' if met else 'MISSED'}: {what}")


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--model", choices=EVERY, default="short_gpt2", help="of benchmarks/models.py (short_gpt2)")
    parser.add_argument("--grid", default="2", help="2, 4 or 2x2: the second half of its ranks is slow (2)")
    parser.add_argument("--machine", help="a profile, instead of a calibration before")
    parser.add_argument("--pin", nargs="*", default=[], help="pins for the compiler, as 'PATTERN: LETTER@AXIS'")
    parser.add_argument("--no-measure", dest="measure", action="store_false", help="price calls by the profile alone")
    add_turns(parser, 5, "the two divisions", 5)
    add_small(parser)
    add_json(parser)
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: the slow ranks share one with competitors")
    result = measured(EVERY[options.model](options.small), options)
    if options.json:
        print(json.dumps(asdict(result) | {"best": result.best, "met": result.met}, indent=1))
    else:
        show(result, Console(highlight=False, soft_wrap=True))


if __name__ == "__main__":
    main()
