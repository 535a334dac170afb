"""A volume of which every rank holds its part: memory as predicted and measured, and a limit that only several ranks meet.

examples/volume.py is trained for a few steps on 1, 2 and 4 ranks, each of which reads its own slices of the file. Measured is the
resident memory of the process at the most, without pages of files and of what ranks share, beside that between two steps; and
beside that before the first one, which is less by what torch, oneDNN and MPI take when they are first used. Freed memory is
given back (``AUTOPAR_MALLOC=return``, as where a memory limit says so), or with ``--keep`` stays in the heap. Losses are
compared, in float64, with those of the model in one process over whole volumes. With a limit the system refuses a rank more than
so much (RLIMIT_DATA).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import autopar
from autopar.ir.plan import ModelSource
from autopar.jobs.launch import command
from autopar.model_file import load
from benchmarks.jobs import answer_of
from benchmarks.options import add_json, add_ranks, described

WORKER = "benchmarks.volume.worker"
EXAMPLE = Path(__file__).parents[2] / "examples" / "volume.py"
PATIENCE = 900.0  # seconds for a job: torch is slow at convolutions in float64
COMPARED = 3  # steps in float64
LIMIT = 160  # MiB beside what a rank has before it trains: one rank needs more, four need half of it


@dataclass(frozen=True, slots=True)
class VolumeRun:
    """What one number of ranks came to: bytes of the fullest rank, losses; `refused` by the system, in its last words.

    `measured` is beside what a rank has between two steps, `grown` beside what it had before the first.
    """

    ranks: int
    predicted: int
    measured: int
    grown: int
    losses: tuple[float, ...]
    seconds: float
    refused: str = ""


def run(ranks: int, steps: int, folder: Path, limit: int = 0, dtype: str = "float32") -> VolumeRun:
    """Train on so many ranks, under a limit in MiB if there is one."""
    file = load(EXAMPLE)
    source = ModelSource(str(file.path), file.sha256, file.attribute)
    inputs = file.example_inputs
    compiled = autopar.compile(file.model, inputs, grid=str(ranks), parts=True, name="volume", source=source)
    built = compiled.save(folder / f"on_{ranks}")
    line = command(WORKER, ranks, [str(built), str(steps), str(limit), dtype])
    predicted = compiled.plan.predicted.bytes
    if limit:
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode:
            said = [one for one in done.stderr.splitlines() if "memory" in one.lower()]
            return VolumeRun(ranks, predicted, 0, 0, (), 0.0, said[-1].strip() if said else f"status {done.returncode}")
        every = json.loads(done.stdout.splitlines()[-1])
    else:
        every = answer_of(line, f"the volume on {ranks} ranks", PATIENCE, threads=1)
    losses, seconds = tuple(every[0]["losses"]), max(one["seconds"] for one in every)
    measured, grown = (max(one[what] for one in every) for what in ("measured", "grown"))
    return VolumeRun(ranks, predicted, measured, grown, losses, seconds)


def sequential(steps: int) -> list[float]:
    """The losses of the model itself, in one process over whole volumes, in float64."""
    line = command(WORKER, 1, ["", str(steps), "0", "float64"])
    return [float(loss) for loss in answer_of(line, "the model itself", PATIENCE, 1)]


def apart(losses: tuple[float, ...], whole: list[float]) -> float:
    """The largest relative difference of the losses from those of whole volumes."""
    return max((abs(a - b) / abs(b) for a, b in zip(losses, whole, strict=True)), default=0.0)


def table(runs: list[VolumeRun], gaps: list[float]) -> Table:
    shown = Table("ranks", title="peak of memory per rank, MiB", title_justify="left")
    for heading in ("predicted", "measured", "ratio", "with first use", "losses apart", "ms per step"):
        shown.add_column(heading, justify="right")
    for one, gap in zip(runs, gaps, strict=True):
        sizes = [f"{size / 2**20:.1f}" for size in (one.predicted, one.measured, one.grown)]
        ratio = f"{one.predicted / one.measured:.3f}"
        shown.add_row(str(one.ranks), *sizes[:2], ratio, sizes[2], f"{gap:.1e}", f"{one.seconds * 1e3:.0f}")
    return shown


def main() -> None:
    parser = described(__doc__)
    add_ranks(parser, (1, 2, 4))
    parser.add_argument("--steps", type=int, default=6, help="training steps (6)")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="MIB", help=f"what a rank may add ({LIMIT})")
    parser.add_argument("--keep", action="store_true", help="leave freed memory in the heap")
    add_json(parser)
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "AUTOPAR_MALLOC": "keep" if options.keep else "return"}
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # as `autopar run` does
    report(options)


def report(options: argparse.Namespace) -> None:
    """Measure, and print a table and who trains under the limit."""
    with tempfile.TemporaryDirectory() as place:
        steps, folder = options.steps, Path(place)
        whole = sequential(COMPARED)
        runs = [run(ranks, steps, folder) for ranks in options.ranks]
        limited = [run(ranks, steps, folder, limit=options.limit) for ranks in options.ranks]
        gaps = [apart(run(ranks, COMPARED, folder, dtype="float64").losses, whole) for ranks in options.ranks]
    if options.json:
        print(
            json.dumps({"runs": [asdict(one) for one in runs], "limited": [asdict(one) for one in limited]}, indent=1)
        )
        return
    console = Console()
    console.print(table(runs, gaps))
    console.print(f"with no more than {options.limit} MiB beside what a rank has before the first step:")
    for one in limited:
        outcome = f"fails: {one.refused}" if one.refused else "trains"
        console.print(f"  {one.ranks} rank{'s' * (one.ranks > 1)}: {outcome}", highlight=False, markup=False)


if __name__ == "__main__":
    main()
