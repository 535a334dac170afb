"""``autopar verify build``: shows that the compiled program computes what the sequential model computes."""

from __future__ import annotations

import argparse
from typing import Any

from autopar.cli.options import count

NAME = "verify"


def add(commands: Any) -> None:  # noqa: ANN401
    """Add the command."""
    text = "compare a compiled model with the sequential one"
    parser = commands.add_parser(NAME, help=text, description=text.capitalize() + ".", allow_abbrev=False)
    parser.add_argument("folder", help="what `autopar compile` wrote")
    parser.add_argument("--steps", type=count(1), default=3, metavar="N", help="optimizer steps to compare after (3)")
    parser.add_argument("--seed", type=int, default=0, help="of the initial parameters (0)")
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the comparison on the grid's ranks; the exit status is 1 where anything differs."""
    from autopar.folder import load
    from autopar.grid import GridShape
    from autopar.runtime.launch import launch

    saved = load(arguments.folder)
    given = [str(saved.folder), "--steps", str(arguments.steps), "--seed", str(arguments.seed)]
    given += ["--json"] if arguments.json else []
    return launch("autopar.runtime.verify", GridShape.parse(saved.plan.grid).size, given, quiet=arguments.json)
