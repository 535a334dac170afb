"""What the scheduler does when one of two ranks gets slower: a competitor takes half of rank 1's core.

Each rank is held to a core of its own. After the first steps a process that spins is put on rank 1's core, so that
rank 1 computes at half its speed. With equal parts a step then takes 2 t, where t is the time before; with parts in
proportion to speed, 2/3 and 1/3, it takes 4/3 t, which is the best there is. Printed are the times before, after the
slow-down and after the last move, the cuts over time, and how far the parameters are from those of one process that
took the same steps.
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
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from safetensors.torch import load_file

from contenders import BALANCED
from contenders.single import Single
from jobs import Job
from models import MODELS, Model

COMPILER = Path(__file__).with_name("compile_model.py")
SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
WARM = 2  # steps that are not counted

Cuts = dict[str, list[float] | None]


@dataclass(frozen=True, slots=True)
class Record:
    """Seconds of every step and the cuts after it; the competitor comes before step `slowed`."""

    model: str
    slowed: int
    seconds: tuple[float, ...]
    cuts: tuple[Cuts, ...]
    difference: float

    @property
    def moves(self) -> list[int]:
        """The steps after which a boundary moved."""
        return [i + 1 for i, (before, after) in enumerate(pairwise(self.cuts)) if before != after]

    @property
    def before(self) -> float:
        return median(self.seconds[WARM : self.slowed])

    @property
    def unmoved(self) -> float:
        """The time with the competitor and the old parts."""
        last = next((step + 1 for step in self.moves if step >= self.slowed), len(self.seconds))
        return median(self.seconds[self.slowed : last])

    @property
    def after(self) -> float:
        """The time after the last move."""
        first = max([self.slowed, *(step + 2 for step in self.moves)])
        return median(self.seconds[min(first, len(self.seconds) - 1) :])


def train(model: Model, options: argparse.Namespace) -> Record:
    """Compile the model, train it with a competitor from step `options.slow_at` on, and compare with one process."""
    with tempfile.TemporaryDirectory() as place:
        folder, size = Path(place), "small" if options.small else "full"
        words = [model.name, size, "2", str(folder / "compiled"), *options.pin]
        subprocess.run([sys.executable, str(COMPILER), *words], check=True)
        job = Job(BALANCED, model.name, options.small, folder)
        try:
            seconds = job.steps(options.slow_at).seconds
            with competitor(sorted(os.sched_getaffinity(0))[1]):
                seconds += job.steps(options.steps - options.slow_at).seconds
        finally:
            job.close()
        cuts = json.loads((folder / "cuts.json").read_text())
        return Record(model.name, options.slow_at, seconds, tuple(cuts), difference(model, options.steps, folder))


@contextmanager
def competitor(core: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", SPIN, str(core)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def difference(model: Model, steps: int, folder: Path) -> float:
    """The largest relative difference (in the 2-norm) of a parameter from one process's after as many steps."""
    torch.set_num_threads(1)
    single = Single(model)
    for _ in range(steps):
        single.step()
    ours = load_file(folder / "final.safetensors")
    pairs = [(ours[name], theirs.detach()) for name, theirs in single.module.named_parameters()]
    return max(float((a - b).norm() / b.norm().clamp(min=1e-6)) for a, b in pairs)


def show(record: Record, log: Console) -> None:
    """The numbers, and one line per cut that was used."""
    before, best = record.before, record.before * 4 / 3
    log.print(f"{'before':>32}  {before * 1e3:8.1f} ms per step")
    log.print(f"{'half of rank 1 taken':>32}  {record.unmoved * 1e3:8.1f}   ({record.unmoved / before:.2f} of before)")
    log.print(f"{'after the last move':>32}  {record.after * 1e3:8.1f}   ({record.after / before:.2f} of before)")
    log.print(f"{'best possible, 4/3 of before':>32}  {best * 1e3:8.1f}")
    for step in [0, *record.moves]:
        log.print(f"  from step {step:3d}: cuts {record.cuts[step]}")
    log.print(f"  the competitor came before step {record.slowed}; boundaries moved after steps {record.moves}")
    log.print(f"  parameters differ from one process's by {record.difference:.1e} (relative, the worst parameter)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="unet", help="unet: space is split; gpt2, resnet: the batch")
    parser.add_argument("--pin", nargs="*", default=[], help="pins for the compiler, as 'PATTERN: LETTER@AXIS'")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--slow-at", type=int, default=12, help="the step before which the competitor comes")
    parser.add_argument("--small", action="store_true", help="a tiny model: a test of the benchmark itself")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: each rank is held to one")
    record = train(MODELS[options.model](options.small), options)
    if options.json:
        summary = {"before": record.before, "unmoved": record.unmoved, "after": record.after, "moves": record.moves}
        print(json.dumps(asdict(record) | summary, indent=1))
    else:
        show(record, Console(highlight=False))


if __name__ == "__main__":
    main()
