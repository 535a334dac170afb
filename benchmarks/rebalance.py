"""What the scheduler does when one of two ranks gets slower: a competitor takes half of rank 1's core.

Each rank is held to a core of its own. After the first steps a process that spins is put on rank 1's core, so that
rank 1 computes at half its speed. With equal parts a step then takes 2 t, where t is the time before; with parts in
proportion to speed, 2/3 and 1/3, it takes 4/3 t. The best that these ranks can do is computed from what they were
measured to take: with c_i the compute seconds of rank i per row since the competitor came (median),

    best = min over rows r of max_i c_i r_i, plus what a step spent beside its slowest rank's computing before

Printed are the step times before, after the slow-down and after the last move, against this best, the rows of each
rank over time, and how far the parameters are from those of one process that took the same steps. The models are
smooth: ReLU lets a gradient pass in one run and not in the other where an activation is zero up to rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from safetensors.torch import load_file

from benchmarks.contenders import BALANCED
from benchmarks.contenders.single import Single
from benchmarks.jobs import Job
from benchmarks.models import EVERY, SMOOTH, Model
from benchmarks.options import add_json, described

COMPILER = "benchmarks.workers.compile_model"
SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
WARM = 2  # steps that are not counted
TOLERANCE = 1e-4  # relative, float32


@dataclass(frozen=True, slots=True)
class ParameterGap:
    """The worst parameter's distance from one process's, over its own norm and over how far training has moved it."""

    worst: str
    value: float
    change: float


@dataclass(frozen=True, slots=True)
class SlowedRun:
    """Per step the seconds, each rank's rows and its compute seconds; the competitor comes before step `slowed`."""

    model: str
    slowed: int
    seconds: tuple[float, ...]
    rows: tuple[tuple[int, ...], ...]
    compute: tuple[tuple[float, ...], ...]
    difference: ParameterGap

    @property
    def moves(self) -> list[int]:
        """The steps before which a boundary moved."""
        return [i + 1 for i, (before, after) in enumerate(pairwise(self.rows)) if before != after]

    @property
    def before(self) -> float:
        return median(self.seconds[WARM : self.slowed])

    @property
    def unmoved(self) -> float:
        """The time with the competitor and the old parts."""
        return median(self.seconds[self.slowed : next((i for i in self.moves if i > self.slowed), len(self.seconds))])

    @property
    def after(self) -> float:
        """The time after the last move; the step right after it makes new buffers, and is left out."""
        first = max([self.slowed, *(i + 1 for i in self.moves)])
        return median(self.seconds[min(first, len(self.seconds) - 1) :])

    @property
    def best(self) -> float:
        """The best possible with the competitor."""
        idle = median(s - max(c) for s, c in zip(self.seconds[WARM : self.slowed], self.compute[WARM:], strict=False))
        return best_compute(sum(self.rows[0]), self.per_row(range(self.slowed, len(self.seconds)))) + idle

    def per_row(self, steps: Sequence[int]) -> list[float]:
        """Compute seconds per row of each rank."""
        return [median(self.compute[i][rank] / self.rows[i][rank] for i in steps) for rank in range(len(self.rows[0]))]


def best_compute(total: int, per_row: Sequence[float]) -> float:
    """The least seconds in which two ranks compute all rows."""
    return min(max(per_row[0] * rows, per_row[1] * (total - rows)) for rows in range(1, total))


def train(model: Model, options: argparse.Namespace) -> SlowedRun:
    """Compile the model, train it with a competitor from step `options.slow_at` on, and compare with one process."""
    with tempfile.TemporaryDirectory() as place:
        folder, size = Path(place), "small" if options.small else "full"
        words = [model.name, size, "2", str(folder / "compiled"), *options.pin]
        subprocess.run([sys.executable, "-m", COMPILER, *words], check=True)
        job = Job(BALANCED, model.name, options.small, folder)
        try:
            seconds = job.steps(options.slow_at).seconds
            with competitor(sorted(os.sched_getaffinity(0))[1]):
                seconds += job.steps(options.steps - options.slow_at).seconds
        finally:
            job.close()
        steps = json.loads((folder / "steps.json").read_text())
        rows, compute = (tuple(map(tuple, steps[key])) for key in ("rows", "compute"))
        compared = difference(model, options.steps, folder)
        return SlowedRun(model.name, options.slow_at, seconds, rows, compute, compared)


@contextmanager
def competitor(core: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", SPIN, str(core)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def difference(model: Model, steps: int, folder: Path) -> ParameterGap:
    """How far the parameters are from one process's after as many steps, in the 2-norm."""
    torch.set_num_threads(1)
    single = Single(model)
    first = {name: parameter.detach().clone() for name, parameter in single.module.named_parameters()}
    for _ in range(steps):
        single.step()
    ours = load_file(folder / "final.safetensors")
    last = {name: parameter.detach() for name, parameter in single.module.named_parameters()}
    apart = {name: float((ours[name] - parameter).norm()) for name, parameter in last.items()}
    value = {name: apart[name] / float(parameter.norm().clamp(min=1e-6)) for name, parameter in last.items()}
    change = {
        name: apart[name] / float((parameter - first[name]).norm().clamp(min=1e-6)) for name, parameter in last.items()
    }
    worst = max(value, key=lambda name: value[name])
    return ParameterGap(worst, value[worst], max(change.values()))


def show(record: SlowedRun, log: Console) -> None:
    """The numbers, and the rows of each rank over time."""
    before, best = record.before, record.best
    log.print(f"{'milliseconds per step':>32}  {'':8}  of before  of the best possible")
    lines = {"before": before, "half of rank 1 taken": record.unmoved, "after the last move": record.after}
    for title, seconds in lines.items():
        log.print(f"{title:>32}  {seconds * 1e3:8.1f}  {seconds / before:9.2f}  {seconds / best:9.2f}")
    log.print(f"{'best possible, as measured':>32}  {best * 1e3:8.1f}  {best / before:9.2f}")
    log.print(f"{'at half speed exactly':>32}  {before * 4e3 / 3:8.1f}  {4 / 3:9.2f}")
    early, late = record.per_row(range(WARM, record.slowed)), record.per_row(range(record.slowed, len(record.seconds)))
    slower = ", ".join(f"rank {i} {b / a:.2f}" for i, (a, b) in enumerate(zip(early, late, strict=True)))
    log.print(f"  compute seconds per row after the competitor came, over those before: {slower}")
    log.print(f"  the competitor came before step {record.slowed}; rows of each rank:")
    for step in [0, *record.moves]:
        log.print(f"    from step {step:3d}: {' + '.join(map(str, record.rows[step]))}")
    apart, steps = record.difference, len(record.seconds)
    verdict = "within" if apart.value <= TOLERANCE else "BEYOND"
    log.print(
        f"  parameters after {steps} steps differ from one process's by {apart.value:.1e} (relative; the worst: {apart.worst})"
    )
    log.print(
        f"  and by {apart.change:.1e} of what training has changed in them; {verdict} the tolerance of {TOLERANCE:g}"
    )


def main() -> None:
    parser = described(__doc__)
    about = "smooth_unet: space is split; short_gpt2: the batch"
    parser.add_argument("--model", choices=EVERY, default=next(iter(SMOOTH)), help=about)
    parser.add_argument("--pin", nargs="*", default=[], help="pins for the compiler, as 'PATTERN: LETTER@AXIS'")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--slow-at", type=int, default=12, help="the step before which the competitor comes")
    parser.add_argument("--small", action="store_true", help="a tiny model: a test of the benchmark itself")
    add_json(parser)
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: each rank is held to one")
    record = train(EVERY[options.model](options.small), options)
    if options.json:
        names = ("before", "unmoved", "after", "best", "moves")
        print(json.dumps(asdict(record) | {name: getattr(record, name) for name in names}, indent=1))
    else:
        show(record, Console(highlight=False, soft_wrap=True))
    if record.difference.value > TOLERANCE:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
