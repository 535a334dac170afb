"""``autopar compare model.py --grid 4x2``: the plan that would be chosen beside fixed ones (`autopar.planning.baselines`).

With ``--json`` a list with one object per plan, the chosen one first: ``plan``; ``title``; ``cost``, what the solver minimised, in
seconds; ``seconds``, ``communication`` and ``bytes`` of a step on one rank, as predicted; ``fits``, whether the memory limit is
met; ``ratio``, the chosen plan's cost as a part of this one's; ``refused``, why there is no such plan: its numbers are then null.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from autopar.cli.option_types import results_only
from autopar.ir.units import bytes_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autopar.analysis.baseline_comparison import Compared

NAME = "compare"
TEXT = "compare the plan of a model with fixed ones, as data or tensor parallelism"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from autopar.cli.commands.compile import add_options

    parser.add_argument("model", help="model.py, or model.py:NAME for another attribute than `model`")
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Plan the model freely and as each baseline says; prints a table."""
    from rich.console import Console

    from autopar.analysis.baseline_comparison import compare
    from autopar.cli.commands.compile import compiled_from

    with (
        results_only(arguments.json),
        Console(stderr=True, markup=False, highlight=False).status("capturing") as status,
    ):

        def progress(stage: str, text: str, seconds: float) -> None:
            status.update(f"{stage} {text}")

        compiled = compiled_from(arguments, progress)
        rows = compare(compiled, progress)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        _show(compiled.plan.name, compiled.plan.grid, rows)
    return 0


def _show(name: str, grid: str, rows: Sequence[Compared]) -> None:
    from autopar.analysis.baseline_comparison import best
    from autopar.cli.tables import milliseconds, note, say, show, table

    listing = table("plan", "what it does", "step time", "exchange time", "memory", "fits", "chosen / it")
    for row in rows:
        if not row.refused:
            numbers = milliseconds(_is(row.seconds)), milliseconds(_is(row.communication)), bytes_text(_is(row.bytes))
            listing.add_row(row.plan, row.title, *numbers, "yes" if row.fits else "no", f"{_is(row.ratio):.3f}")
    show(listing, title=f"{name} on grid {grid}, one step on one rank, predicted")
    for row in rows:
        if row.refused:
            say(f"no {row.plan}: {row.refused}")
    rival = best(tuple(rows))
    if rival is not None:
        note(
            f"The chosen plan costs {_is(rows[0].cost) / _is(rival.cost):.1%} of the best fixed one that fits, {rival.plan}."
        )


def _is(number: float | None) -> float:
    """A number of a plan that there is."""
    assert number is not None
    return number
