"""The options that benchmarks share. Each adds the ones it has, with its own numbers, and whatever else it wants."""

from __future__ import annotations

import argparse
from collections.abc import Iterable


def described(text: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a benchmark's docstring, as it stands there."""
    return argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_names(
    parser: argparse.ArgumentParser, option: str, known: Iterable[str], metavar: str = "NAME", least: int = 1
) -> None:
    """Some of the known names, at least one or none: all of them unless told otherwise."""
    names = list(known)
    parser.add_argument(
        option, nargs="+" if least else "*", choices=names, default=names, metavar=metavar, help=", ".join(names)
    )


def add_turns(parser: argparse.ArgumentParser, rounds: int, what: str, steps: int = 3) -> None:
    """Whatever is compared takes turns, so that what else the machine does meets all alike."""
    parser.add_argument("--rounds", type=int, default=rounds, help=f"turns of {what} ({rounds})")
    parser.add_argument("--steps", type=int, default=steps, help=f"timed steps in a turn ({steps})")


def add_ranks(parser: argparse.ArgumentParser, counts: Iterable[int], what: str = "numbers of ranks") -> None:
    """Several numbers of ranks, one after the other."""
    default = list(counts)
    usual = " ".join(map(str, default))
    parser.add_argument("--ranks", nargs="+", type=int, default=default, metavar="N", help=f"{what} ({usual})")


def add_small(parser: argparse.ArgumentParser) -> None:
    """For the tests of benchmarks."""
    parser.add_argument("--small", action="store_true", help="tiny models: a test of the benchmark itself")


def add_json(parser: argparse.ArgumentParser) -> None:
    """For programs that read the results."""
    parser.add_argument("--json", action="store_true", help="print JSON, and no table")


def timed(parser: argparse.ArgumentParser, rounds: int, what: str) -> argparse.Namespace:
    """The words of this command, of a benchmark in which `what` take turns."""
    add_turns(parser, rounds, what)
    add_small(parser)
    add_json(parser)
    return parser.parse_args()
