"""``autopar verify build``: shows that the compiled program computes what the sequential model computes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

NAME = "verify"


def add(commands: Any) -> None:  # noqa: ANN401
    """Add the command."""
    parser = commands.add_parser(NAME, help="compare a compiled model with the sequential one", allow_abbrev=False)
    parser.add_argument("folder", help="what `autopar compile` wrote")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps to compare after (3)")
    parser.add_argument("--seed", type=int, default=0, help="of the initial parameters (0)")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the comparison on the grid's ranks; the exit status is 1 where anything differs."""
    from autopar.grid import GridShape
    from autopar.plan import load_plan
    from autopar.runtime.launch import launch

    folder = Path(arguments.folder)
    plan = load_plan(folder)
    given = [str(folder), "--steps", str(arguments.steps), "--seed", str(arguments.seed)]
    given += ["--json"] if arguments.json else []
    return launch("autopar.runtime.verify", GridShape.parse(plan.grid).size, given, quiet=arguments.json)
