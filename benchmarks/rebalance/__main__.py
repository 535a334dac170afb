"""What the scheduler does when a rank gets slower: a competitor takes half of the last rank's core, and later lets go of it.

    python -m benchmarks.rebalance [--cases NAME ...]      the competitor comes before step 12 and goes before step 40
    python -m benchmarks.rebalance --balanced 300          nobody comes: no boundary is to move
    python -m benchmarks.rebalance --move                  what a move of a tenth of 64 MB with AdamW's state sends and takes

Each rank is held to a core of its own (four ranks on two cores share them), and the competitor takes exactly half of one
(`benchmarks.competitor`): equal parts take 2 t, where t is the time before; parts in proportion to speed 4/3 t. The best that
these ranks can do is computed from what they were measured to take: with f_r the plan's work of rank r under the last cuts, T_r
the median of its compute seconds there, and w_r its seconds inside communication calls,

    best = min over legal cuts of max_r f_r(cuts) T_r / f_r, plus the median of min_r w_r beside the competitor

(before the first move or after the last, whichever is less: the rank that waits least for others communicates for as long).

Ranks that never wait for each other within a step could do that. Where works are cut into other rows (eight experts, 32 rows of
attention), one fraction leaves every rank another excess of each, and those that are done wait. *Best in turn* counts these waits:

    best in turn = min over legal cuts of the sum over works k of max_r f_rk(cuts) T_r / f_r, plus the same

Of a graph in segments the best is that of all ways to place them, each at what it took before, times how much slower its position
has become. *Regained* is (slowed - after) / (slowed - best), with `after` from the eighth step after the competitor came on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from autopar.jobs.launch import command
from benchmarks.jobs import answer_of
from benchmarks.options import add_json, add_names, add_small, described
from benchmarks.rebalance.cases import CASES
from benchmarks.rebalance.record import SlowedRun

COMPILER, WORKER, MOVER = "benchmarks.workers.compile_case", "benchmarks.workers.slowed", "benchmarks.workers.moving"
NAMES = (
    "before",
    "unmoved",
    "after",
    "best",
    "regained",
    "best_in_turn",
    "regained_in_turn",
    "freed_again",
    "overhead",
)
NAMES = (*NAMES, "moves")


def run(name: str, options: argparse.Namespace) -> SlowedRun:
    """Compile a case, and train it with a competitor."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", COMPILER, name, "small" if options.small else "full", folder], check=True)
        steps = (options.balanced,) * 3 if options.balanced else (options.steps, options.slow_at, options.free_at)
        request = dict(zip(("steps", "slowed", "freed"), steps, strict=True))
        request |= {"case": name, "small": options.small, "folder": folder}
        found = answer_of(command(WORKER, case.ranks, [json.dumps(request)]), case.title, threads=1)
    cuts = tuple(tuple(None if at is None else tuple(at) for at in one) for one in found["cuts"])
    compute, waits, places = (tuple(map(tuple, found[key])) for key in ("compute", "waits", "places"))
    return SlowedRun(
        name, *steps[1:], tuple(found["seconds"]), compute, waits, cuts, places, found["best"], found["in_turn"],
        found["said"], found["share"],
    )  # fmt: skip


def show(record: SlowedRun, log: Console) -> None:
    """The cuts over time, and what the scheduler said last."""
    title = CASES[record.case].title
    for step in [0, *record.moves]:
        cuts = ["balanced" if at is None else ", ".join(f"{one:.3f}" for one in at[1:-1]) for at in record.cuts[step]]
        where = [f"cut at {'; '.join(cuts)}"] if cuts else []
        where += [f"segments at {' '.join(map(str, record.places[step]))}"] if record.places[step] else []
        log.print(f"  {title}: from step {step:3d} {', '.join(where)}")
    shares = f"the competitor had {record.share:.1%} of its core, the scheduler took {record.overhead:.2%} of the time"
    log.print(f"  {title}: {record.said}; {shares}")


def table(records: list[SlowedRun]) -> Table:
    """Milliseconds per step, and shares."""
    heads = ("before", "slowed", "after", "best", "regained", "best in turn", "regained", "freed", "moves")
    made = Table("ms per step", *heads)
    for one in records:
        times = [f"{seconds * 1e3:.0f}" for seconds in (one.before, one.unmoved, one.after, one.best)]
        freed = f"{one.freed_again * 1e3:.0f} ({one.freed_again / one.before - 1:+.0%})"
        in_turn = f"{one.best_in_turn * 1e3:.0f}", f"{one.regained_in_turn:.0%}"
        moves = ", ".join(map(str, one.moves))
        made.add_row(CASES[one.case].title, *times, f"{one.regained:.0%}", *in_turn, freed, moves)
    return made


def main() -> None:
    parser = described(__doc__)
    add_names(parser, "--cases", CASES)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--slow-at", type=int, default=12, help="the step before which the competitor comes (12)")
    parser.add_argument("--free-at", type=int, default=40, help="the step before which it goes (40)")
    parser.add_argument("--balanced", type=int, default=0, metavar="STEPS", help="so many steps without a competitor")
    parser.add_argument("--move", action="store_true", help="measure one move instead")
    add_small(parser)
    add_json(parser)
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: each rank is held to one")
    log = Console(highlight=False, soft_wrap=True)
    if options.move:
        print(json.dumps(moved(options.small), indent=1))
        return
    records = []
    for name in options.cases:
        records.append(run(name, options))
        if not options.json:
            show(records[-1], log)
    if options.json:
        names = ("overhead", "moves") if options.balanced else NAMES
        print(json.dumps([asdict(one) | {key: getattr(one, key) for key in names} for one in records], indent=1))
    elif not options.balanced:
        log.print(table(records))


def moved(small: bool) -> dict[str, float]:
    """What a move of a tenth sends and takes beside a step."""
    answer: dict[str, float] = answer_of(command(MOVER, 2, ["small" if small else "full"]), "a move", threads=1)
    return answer


if __name__ == "__main__":
    main()
