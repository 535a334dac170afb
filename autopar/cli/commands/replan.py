"""``autopar replan build``: plan the same model for the same grid again, by what ``autopar run --profile`` has measured.

How long operators, messages and updates take, and how fast each rank is, goes into the machine profile of the new plan
(`autopar.analysis.observed_costs`), which is written as ``autopar compile`` writes one.

With ``--json`` one object: ``folder``, ``grid``; ``rows`` with ``name``, ``predicted``, ``measured``, ``replanned`` (seconds or
null); ``speeds`` of the ranks; ``operators`` with ``operator``, ``forward``, ``backward`` (times the machine's rates); ``cuts``
before and after, fractions by axis; ``difference`` as ``autopar diff --json`` has it.
"""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from autopar.cli.commands import diff
from autopar.cli.option_types import count, results_only

if TYPE_CHECKING:
    from autopar.analysis.replanning import Replanned
    from autopar.ir.plan import Plan

NAME = "replan"
TEXT = "plan a model anew by what `autopar run --profile` has measured"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("folder", help="what `autopar compile` wrote and `autopar run --profile` has run")
    parser.add_argument("--profile", metavar="FILE", help="what the run has written, where it is not in the folder")
    into = "folder to write (FOLDER_replanned); the same folder replaces its plan"
    parser.add_argument("-o", "--output", metavar="OUT", help=into)
    parser.add_argument("--machine-file", metavar="FILE", help="write the machine profile as measured, too, as TOML")
    parser.add_argument("--most", type=count(1), default=20, metavar="N", help="rows to show per table (20)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Plan anew, save, and say what is new."""
    from autopar.analysis.replanning import replan
    from autopar.artifact import EDITED, check_writable, is_edited
    from autopar.cli.tables import say
    from autopar.files import check_file, write_file

    folder = Path(arguments.folder)
    folder = folder if folder.is_dir() or not folder.exists() else folder.parent
    output = Path(arguments.output) if arguments.output else folder.with_name(f"{folder.resolve().name}_replanned")
    check_writable(output)
    rule = "a machine profile is a file of its own"
    if arguments.machine_file:
        check_file("--machine-file", Path(arguments.machine_file), rule)
    with results_only(arguments.json):
        again = replan(folder, arguments.profile)
    if arguments.machine_file:
        from autopar.ir.machine_toml import text

        notes = [f"as a run of {again.former.name} on grid {again.former.grid} has measured it"]
        write_file("--machine-file", Path(arguments.machine_file), text(again.machine, notes, {}), rule)
    edited = is_edited(output)
    again.save(output)
    if arguments.json:
        print(json.dumps(_facts(again, output)))
        return 0
    _show(again, arguments.most)
    if edited:
        say(f"kept       the program that was edited by hand, as {output / EDITED}")
    say(
        f"wrote      {output / 'program.py'}  {output / 'plan.json'}",
        f"next       autopar run {shlex.quote(str(output))}",
    )
    return 0


def _facts(again: Replanned, output: Path) -> dict[str, object]:
    plan = again.compiled.plan
    return {
        "folder": str(output),
        "grid": plan.grid,
        "rows": [asdict(row) for row in again.rows],
        "speeds": again.machine.speeds(plan.shape.size),
        "operators": [asdict(one) for one in again.machine.operators],
        "cuts": [dict(again.former.cuts), dict(plan.cuts)],
        "difference": asdict(again.difference),
    }


def _show(again: Replanned, most: int) -> None:
    from autopar.cli.tables import milliseconds, say, show, table

    plan, former = again.compiled.plan, again.former
    listing = table(f"{plan.name} on grid {plan.grid}, one step", "predicted time", "measured time", "replanned time")
    for row in again.rows:
        every = (row.predicted, row.measured, row.replanned)
        listing.add_row(row.name, *("-" if seconds is None else milliseconds(seconds) for seconds in every))
    show(listing)
    listing = table("operator", "forward", "backward", numbers=1)
    for one in again.machine.operators[:most]:
        listing.add_row(one.operator, f"{one.forward:.2f} x", f"{one.backward:.2f} x")
    show(listing, title="what operators take, times the machine's rates")
    speeds = again.machine.speeds(plan.shape.size)
    if len(set(speeds)) > 1:
        say(f"speeds     {', '.join(f'rank {rank} {speed:.2f}' for rank, speed in enumerate(speeds))}")
    else:
        say("speeds     the ranks are equally fast")
    for line in cut_lines(former, plan):
        say(f"cuts       {line}")
    say(f"new plan   {diff.sentence(again.difference)}")
    diff.show_changes(again.difference, most)


def cut_lines(former: Plan, plan: Plan) -> list[str]:
    """Where axes are cut now and were not: ``data at 0.667 (was: equal parts)``."""
    before, after = dict(former.cuts), dict(plan.cuts)
    return [
        f"{name} at {_at(after.get(name))} (was: {_at(before.get(name))})"
        for name in plan.shape.names
        if before.get(name) != after.get(name)
    ]


def _at(cuts: tuple[float, ...] | None) -> str:
    return "equal parts" if cuts is None else ", ".join(f"{cut:.3f}" for cut in cuts[1:-1])
