"""The parser, and one place where errors are printed: a user's mistake is a message, not a traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import autopar
from autopar.cli import compile as compile_command
from autopar.cli import explain, inspect, run, verify
from autopar.errors import AutoparError, nearest

_COMMANDS = (compile_command, inspect, explain, run, verify)


class Parser(argparse.ArgumentParser):
    """An argument parser that suggests the nearest option or command."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse; unknown options end with the nearest known ones."""
        known, rest = self.parse_known_args(args, namespace)
        if rest:
            parser = _subparser(self, getattr(known, "command", ""))
            options = [option for action in parser._actions for option in action.option_strings]
            parser.error("; ".join(f"unknown option {given}{nearest(given.split('=')[0], options)}" for given in rest))
        return known

    def error(self, message: str) -> NoReturn:
        """Print the message and how to get help, without the whole usage."""
        if message.startswith("argument command: invalid choice: "):
            given = message.split("'")[1]
            message = f"unknown command {given!r}{nearest(given, [command.NAME for command in _COMMANDS])}"
        self.exit(2, f"autopar: {message}\n  see `{self.prog} --help`\n")


def _subparser(parser: argparse.ArgumentParser, command: str) -> argparse.ArgumentParser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and command in action.choices:
            chosen: argparse.ArgumentParser = action.choices[command]
            return chosen
    return parser


def parser() -> Parser:
    """The whole command line."""
    top = Parser(
        prog="autopar",
        description="Compile a PyTorch model for a grid of MPI ranks, train it there, and read the plan.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"autopar {autopar.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for command in _COMMANDS:
        command.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 for a user's mistake, 2 for a bad command line, or the job's own."""
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
    except BrokenPipeError:
        sys.stderr.close()
        return 0
