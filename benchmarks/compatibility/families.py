"""One model of every family of timm, torchvision and transformers through the whole compiler: is each computed as it was?

    python -m benchmarks.compatibility.families [--libraries timm ...] [--names NAME ...] [--grids 2 2x2] [--workers 2]
                                               [--out FILE] [--write]

Every family runs in a process of its own under a limit of processor time and memory; ranks are threads of it. Lines are added to
`--out` as they are known, and what stands there is not tried again: a run that was stopped goes on. `--write` makes the table of
docs/compatibility.md from that file. `make families` installs the libraries and does all of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection, wait
from pathlib import Path

from rich.console import Console

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded: weights are random
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.compatibility.family_sources import SOURCES
from benchmarks.compatibility.family_subject import Subject
from benchmarks.compatibility.family_trial import FamilyOutcome, attempt
from benchmarks.compatibility.section import write_section
from benchmarks.options import described

GOOD = ("ok", "rounding")
BAD = ("DIFFER", "CRASH", "SLOW")
COUNTED = (*GOOD, "REFUSED", *BAD)
TITLES = {
    "DIFFER": "Wrong",
    "CRASH": "Crashes",
    "SLOW": "Too slow",
    "REFUSED": "Refused",
    "rounding": "Equal within what rounding does to the model",
}
MOST_MEMORY = 16 << 30
Task = tuple[str, str, Callable[[], Subject]]


def _child(task: Task, grids: Sequence[str], seconds: int, pipe: Connection) -> None:
    """Try one family, and send what became of it. The system ends what takes too long."""
    library, family, make = task
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    for stream in (1, 2):  # what libraries print
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    warnings.filterwarnings("ignore")

    def small() -> Subject:
        """What the library makes and runs in a part of the memory."""
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY // 2, MOST_MEMORY))
        subject = make()
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        return subject

    pipe.send(attempt(library, family, small, grids))


def tried(tasks: Sequence[Task], grids: Sequence[str], seconds: int, workers: int) -> Iterator[list[FamilyOutcome]]:
    """What becomes of every family, in the order in which they end."""
    fork = multiprocessing.get_context("fork")
    waiting, running = list(reversed(tasks)), {}
    while waiting or running:
        while waiting and len(running) < workers:
            task = waiting.pop()
            mine, theirs = fork.Pipe(duplex=False)
            process = fork.Process(target=_child, args=(task, grids, seconds, theirs))
            process.start()
            theirs.close()
            running[mine] = (task, process)
        for pipe in wait(list(running)):
            (library, family, _), process = running.pop(pipe)  # type: ignore[index]
            try:
                outcomes: list[FamilyOutcome] = pipe.recv()  # type: ignore[union-attr]
            except EOFError:
                outcomes = []
            process.join()
            slow = process.exitcode == -signal.SIGXCPU
            status = "SLOW" if slow else "CRASH"
            said = f"stopped after {seconds} s of processor time" if slow else f"ended by {process.exitcode}"
            yield outcomes or [FamilyOutcome(library, family, grid, status, message=said) for grid in grids]


def read(path: Path | None) -> list[FamilyOutcome]:
    """What an earlier run has found; of several lines for one family and grid the last."""
    if path is None or not path.exists():
        return []
    lines = [FamilyOutcome(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return list({(outcome.library, outcome.family, outcome.grid): outcome for outcome in lines}.values())


def section(outcomes: Sequence[FamilyOutcome], today: str, total: int) -> list[str]:
    """The table as lines of Markdown: counts by library and grid, and by name whatever is not simply right."""
    tested = ", ".join(f"{name} {_version(name)}" for name in ("torch", *SOURCES))
    lines = [
        "## Model families (`make families`)",
        "",
        f"{today}, {tested}; float64, two steps, every gradient, all parameters and buffers.",
        f"{len({(trial.library, trial.family) for trial in outcomes})} of {total} families were tried.",
        "",
    ]
    lines += ["| library | grid | counted | right | share | of these by rounding | median s | most s | calls split |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for library in SOURCES:
        for grid in sorted({trial.grid for trial in outcomes}):
            counted = [
                trial
                for trial in outcomes
                if (trial.library, trial.grid) == (library, grid) and trial.status in COUNTED
            ]
            if counted:
                lines.append(_row(library, grid, counted))
    for status, title in TITLES.items():
        rows = [trial for trial in outcomes if trial.status == status]
        if rows:
            lines += ["", f"**{title}**", ""]
            lines += [f"- {trial.library} {trial.family}, grid {trial.grid}: {_plain(trial.message)}" for trial in rows]
    bare = Counter(trial.library for trial in outcomes if trial.status == "not built")
    lines += ["", f"Not counted, since the library cannot run them at these sizes (lines): {dict(bare)}."]
    return lines


def _row(library: str, grid: str, counted: Sequence[FamilyOutcome]) -> str:
    right = [trial for trial in counted if trial.status in GOOD]
    seconds = sorted(trial.seconds for trial in counted)
    rounding = sum(trial.status == "rounding" for trial in right)
    split = sum(trial.split for trial in right) / max(len(right), 1)
    cells = [library, grid, len(counted), len(right), f"{len(right) / len(counted):.1%}", rounding]
    cells += [f"{seconds[len(seconds) // 2]:.1f}", f"{seconds[-1]:.1f}", f"{split:.0%}"]
    return f"| {' | '.join(map(str, cells))} |"


def _plain(message: str) -> str:
    return " ".join(message.split())[:240].replace("|", "/").replace("<", "(").replace(">", ")")


def _version(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "missing"


def arguments() -> argparse.Namespace:
    parser = described(__doc__)
    parser.add_argument("--libraries", nargs="+", choices=SOURCES, default=list(SOURCES), metavar="LIBRARY")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="families (all)")
    parser.add_argument("--grids", nargs="+", default=["2", "2x2"], metavar="GRID", help="2 2x2")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes at a time (2)")
    parser.add_argument(
        "--timeout", type=int, default=900, metavar="S", help="seconds of processor time for one family (900)"
    )
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th family from the I-th on (0/1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="results, a line of JSON each; those there are kept")
    parser.add_argument("--write", action="store_true", help="write the table of docs/compatibility.md from --out")
    parser.add_argument("--list", action="store_true", help="print the families and stop")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Task]:
    """The families that the options name, of which nothing is known yet."""
    every = [(library, name, make) for library in options.libraries for name, make in SOURCES[library]().items()]
    at, of = map(int, options.shard.split("/"))
    named = [task for task in every if not options.names or task[1] in options.names][at::of]
    done = {(outcome.library, outcome.family) for outcome in read(options.out)}
    return [task for task in named if task[:2] not in done]


def line(trial: FamilyOutcome) -> str:
    return f"{trial.status:9} {trial.library} {trial.family:32} {trial.grid:4} {trial.seconds:6.1f} s  {trial.message[:200]}"


def main() -> None:
    options = arguments()
    log = Console(highlight=False, soft_wrap=True, markup=False)
    tasks = chosen(options)
    if options.list:
        log.print(f"{len(tasks)} families:", *(f"{library}:{name}" for library, name, _ in tasks))
        return
    start, bad = time.monotonic(), 0
    for count, outcomes in enumerate(tried(tasks, options.grids, options.timeout, options.workers), 1):
        for trial in outcomes:
            bad += trial.status in BAD
            log.print(line(trial))
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.writelines(
                    json.dumps(asdict(replace(trial, seconds=round(trial.seconds, 2)))) + "\n" for trial in outcomes
                )
        log.print(f"--- {count} of {len(tasks)} families, {(time.monotonic() - start) / count:.0f} s each")
    if options.write:
        total = sum(len(families()) for families in SOURCES.values())
        write_section("families", "\n".join(section(read(options.out), time.strftime("%Y-%m-%d"), total)))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
