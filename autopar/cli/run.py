"""``autopar run build``: starts the program on as many MPI ranks as its grid has."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

NAME = "run"


def add(commands: Any) -> None:  # noqa: ANN401
    """Add the command."""
    parser = commands.add_parser(NAME, help="train a compiled model on MPI ranks", allow_abbrev=False)
    parser.add_argument("folder", help="what `autopar compile` wrote")
    parser.add_argument("--steps", type=int, default=100, help="training steps (100)")
    parser.add_argument("--compare", type=int, default=0, metavar="N", help="run the sequential model beside the first N steps")
    parser.add_argument("--save", metavar="FILE", help="write the trained parameters as safetensors, under the original names")
    parser.add_argument("--seed", type=int, default=0, help="of the initial parameters (0)")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="run in another precision than compiled")
    parser.add_argument("--no-rebalance", action="store_true", help="keep the bounds as they are")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Launch, and return the job's exit status."""
    from autopar.grid import GridShape
    from autopar.plan import load_plan
    from autopar.runtime.launch import launch

    folder = Path(arguments.folder)
    plan = load_plan(folder)
    given = ["--steps", str(arguments.steps), "--compare", str(arguments.compare), "--seed", str(arguments.seed)]
    given += ["--save", arguments.save] if arguments.save else []
    given += ["--dtype", arguments.dtype] if arguments.dtype else []
    given += ["--no-rebalance"] if arguments.no_rebalance else []
    return launch(folder / "program.py", GridShape.parse(plan.grid).size, given)
