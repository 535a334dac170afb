"""``autopar verify``: shows that a compiled program computes what the model computes, and that primitives have their adjoints.

autopar verify build              compares training with the sequential model's, and tests all that the program sends
autopar verify build --adjoint    tests all that the program sends, at its own shapes, and does not train
autopar verify --adjoint -n 4     tests every primitive on random grids of up to 4 ranks, without a program
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from autopar.cli import launch_options
from autopar.cli.option_types import count

if TYPE_CHECKING:
    from autopar.cli.parser import Parser

NAME = "verify"
TEXT = "compare a compiled model with the sequential one, and test adjoints"
RANKS = 4


def add(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("folder", nargs="?", help="what `autopar compile` wrote; may be left out with --adjoint")
    parser.add_argument("--adjoint", action="store_true", help="only the adjoint test: <Fx,y> = <x,F*y> in float64")
    parser.add_argument(
        "-n",
        dest="ranks",
        type=count(1),
        metavar="RANKS",
        help=f"without a folder: random grids of up to so many ({RANKS})",
    )
    parser.add_argument("--grid", help="without a folder: this grid instead of random ones")
    parser.add_argument("--steps", type=count(1), default=3, metavar="N", help="optimizer steps to compare after (3)")
    parser.add_argument("--seed", type=int, default=0, help="of the initial parameters, and of test vectors (0)")
    parser.add_argument("--verbose", action="store_true", help="show every communication, not the worst ones alone")
    launch_options.add_hosts(parser, "autopar verify build -- -hosts a:2,b:2")
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")
    parser.set_defaults(run=partial(run, parser))


def run(parser: Parser, arguments: argparse.Namespace) -> int:
    """Run the comparison on the grid's ranks; the exit status is 1 where anything differs."""
    from autopar.artifact import load
    from autopar.ir.grid import GridShape
    from autopar.jobs.launch import launch

    start = partial(launch, quiet=arguments.json, options=launch_options.options(arguments.hosts, arguments.mpiexec))
    words = ["--seed", str(arguments.seed), *(["--json"] if arguments.json else [])]
    if arguments.folder is None:
        _check_without_folder(parser, arguments)
        shape = GridShape.parse(arguments.grid) if arguments.grid else None
        words += ["--grid", str(shape)] if shape else []
        ranks = shape.size if shape else arguments.ranks or RANKS
        return start("autopar.runtime.verification.primitive_adjoints", ranks, words)
    if arguments.ranks or arguments.grid:
        parser.refuse("-n and --grid with a folder", "a compiled program has its grid", [parser.usage_line()])
    saved = load(arguments.folder)
    words += [f"--{name}" for name in ("adjoint", "verbose") if getattr(arguments, name)]
    words = [str(saved.folder), "--steps", str(arguments.steps), *words]
    return start("autopar.runtime.verification.verify", GridShape.parse(saved.plan.grid).size, words)


def _check_without_folder(parser: Parser, arguments: argparse.Namespace) -> None:
    if not arguments.adjoint:
        parser.refuse("without folder", "only --adjoint needs none", [parser.usage_line()])
    if arguments.ranks and arguments.grid:
        parser.refuse("-n with --grid", "a grid says how many ranks there are", [parser.usage_line()])
