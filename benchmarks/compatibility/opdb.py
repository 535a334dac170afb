"""PyTorch's operator database through the compiler: every operator, every letter, values and gradients beside eager.

Each operator is compiled and run in a process of its own. Results are kept in a file as they come, so that a run goes on
where it was stopped, and what was tried on fewer samples or grids is tried again; --again runs anew what is named or was
not right. With --write the section on operators of docs/compatibility.md is made of the file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.compatibility.opdb_samples import operators
from benchmarks.compatibility.opdb_table import section, summary
from benchmarks.compatibility.opdb_trial import OperatorOutcome, tried, warm_up
from benchmarks.compatibility.section import write_section
from benchmarks.options import described

KEPT = Path("build") / "opdb.json"


@dataclass(frozen=True, slots=True)
class _Running:
    """A child that tries one operator."""

    name: str
    process: BaseProcess
    until: float


def rows_of(names: Sequence[str], known: dict[str, Any], options: argparse.Namespace) -> Iterator[OperatorOutcome]:
    """Try the operators in children, so many at a time, each within its time."""
    context = multiprocessing.get_context("fork")
    left, running = list(names), dict[Connection, _Running]()
    while left or running:
        while left and len(running) < options.workers:
            name = left.pop(0)
            ours, theirs = context.Pipe(duplex=False)
            arguments = (theirs, name, known[name], options.samples, tuple(options.grids))
            process = context.Process(target=_child, args=arguments, daemon=True)
            process.start()
            theirs.close()
            running[ours] = _Running(name, process, time.monotonic() + options.seconds)
        for ready in wait(list(running), timeout=1.0):
            assert isinstance(ready, Connection)
            yield _answer(ready, running.pop(ready))
        for late in [one for one, child in running.items() if time.monotonic() > child.until]:
            child = running.pop(late)
            child.process.kill()
            child.process.join()
            yield OperatorOutcome(child.name, "CRASH", why=(f"CRASH: not done within {options.seconds} s",))


def _answer(ready: Connection, child: _Running) -> OperatorOutcome:
    """What a child that has ended or answered has to say."""
    try:
        answer = ready.recv()
        assert isinstance(answer, OperatorOutcome)
    except EOFError:
        child.process.join()
        code = child.process.exitcode or 0
        what = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return OperatorOutcome(child.name, "CRASH", why=(f"CRASH: the process ended with {what}",))
    child.process.join()
    return answer


def _child(out: Connection, name: str, info: Any, samples: int, grids: Sequence[str]) -> None:  # noqa: ANN401
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    torch.set_num_threads(1)
    out.send(tried(name, info, samples, grids))


def read(path: Path) -> dict[str, OperatorOutcome]:
    """The rows of earlier runs."""
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {
        row["name"]: OperatorOutcome(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})
        for row in rows
    }


def keep(rows: dict[str, OperatorOutcome], path: Path) -> None:
    """Write all rows, in the order of their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(rows[name]) for name in sorted(rows)], indent=1)
    path.with_suffix(".part").write_text(text, encoding="utf-8")
    path.with_suffix(".part").replace(path)


def arguments() -> argparse.Namespace:
    parser = described(__doc__)
    parser.add_argument(
        "--names", nargs="+", default=[], metavar="NAME", help="only these; a name stands for its variants"
    )
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="every N-th operator, from the I-th on")
    parser.add_argument("--samples", type=int, default=8, help="samples of each, spread over all there are (8)")
    parser.add_argument("--grids", nargs="+", default=["2", "3"], help="grids of one axis (2 3)")
    parser.add_argument("--workers", type=int, default=2, help="operators at a time (2)")
    parser.add_argument("--seconds", type=int, default=300, help="time limit of an operator (300)")
    parser.add_argument("--again", nargs="*", metavar="STATUS", help="run anew: everything, or what had such a status")
    parser.add_argument("--out", type=Path, default=KEPT, help=f"where results are kept ({KEPT})")
    parser.add_argument("--write", action="store_true", help="write the section of docs/compatibility.md")
    return parser.parse_args()


def chosen(options: argparse.Namespace, known: dict[str, Any], rows: dict[str, OperatorOutcome]) -> list[str]:
    """The operators that are to be tried."""
    first, step = map(int, options.shard.split("/"))
    names = [
        name for name in known if not options.names or {name, name.split(".")[0], known[name].name} & {*options.names}
    ]
    if options.again is None:
        names = [name for name in names if name not in rows or shallower(rows[name], options)]
    elif options.again:
        names = [name for name in names if name not in rows or rows[name].status in options.again]
    return names[first - 1 :: step]


def shallower(row: OperatorOutcome, options: argparse.Namespace) -> bool:
    """Whether a row is of fewer samples or grids than are asked for now."""
    return row.status != "nocompare" and (row.asked < options.samples or not set(options.grids) <= set(row.grids))


def main() -> None:
    options = arguments()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    console = Console(stderr=True)
    known = operators()
    rows = read(options.out)
    names = chosen(options, known, rows)
    if names:
        warm_up()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("operators", total=len(names))
        for row in rows_of(names, known, options):
            rows[row.name] = row
            keep(rows, options.out)
            if row.status not in ("ok", "nocompare"):
                progress.console.print(f"{row.status} {row.name}: {row.why[0]}", highlight=False, markup=False)
            progress.update(task, advance=1, description=row.name, refresh=True)
    console.print(summary(rows.values()), highlight=False)
    if options.write:
        write_section("operators", section(rows.values()))
    sys.exit(any(rows[name].status in ("WRONG", "CRASH") for name in names))


if __name__ == "__main__":
    main()
