"""The commands, and one place where errors are printed: a user's mistake is a message, not a traceback.

Exit status: 0, 1 for a mistake in what was given (model, plan, grid), 2 for a bad command line, 130 when interrupted, or the
job's own, 85 for one that was asked to stop and can go on. Messages go to standard error; standard output is for results, and
with ``--json`` holds nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper

from autopar.cli.commands import (
    calibrate,
    checkpoint,
    compare,
    diff,
    explain,
    inspect,
    predict,
    replan,
    report,
    run,
    simulate,
    solve,
    verify,
)
from autopar.cli.commands import compile as compile_command
from autopar.cli.parser import Parser
from autopar.errors import AutoparError
from autopar.version import __version__

_COMMANDS = (
    compile_command,
    compare,
    inspect,
    explain,
    diff,
    run,
    predict,
    checkpoint,
    report,
    replan,
    verify,
    simulate,
    solve,
    calibrate,
)


def parser() -> Parser:
    """The whole command line."""
    top = Parser(
        prog="autopar",
        description="Compile a PyTorch model for a grid of MPI ranks, train it there, and read the plan.",
        epilog="first steps: autopar compile model.py --grid 2 -o build; autopar inspect build; autopar run build",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"autopar {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for command in _COMMANDS:
        text = f"{command.TEXT.capitalize()}."
        options = commands.add_parser(command.NAME, help=command.TEXT, description=text, allow_abbrev=False)
        options.set_defaults(run=command.run)
        command.add(options)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a line of the model may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    arguments = parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return command(arguments)
    except AutoparError as error:
        print(f"autopar: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("autopar: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
