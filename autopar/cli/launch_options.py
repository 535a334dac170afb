"""Where a command's ranks start: on the hosts that ``--hosts`` lists, and as words behind ``--`` tell mpiexec."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def add_hosts(parser: argparse.ArgumentParser, example: str) -> None:
    """Add ``--hosts``, and let the command have the words behind ``--``, as `mpiexec` of its arguments."""
    parser.add_argument("--hosts", metavar="LIST", help="hosts and their ranks for mpiexec, as in a:2,b:2")
    parser.set_defaults(mpiexec=[])
    parser.description = f"{parser.description} Words after -- go to mpiexec, as in `{example}`."


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line up to ``--``, and what is behind it."""
    at = words.index("--") if "--" in words else len(words)
    return list(words[:at]), list(words[at + 1 :])


def options(hosts: str | None, words: list[str]) -> list[str]:
    """What mpiexec is given. Raises ConfigError for words that are no options, or where there is no mpiexec."""
    from autopar.errors import ConfigError, refusal
    from autopar.jobs.launch import host_options

    if words and not words[0].startswith("-"):
        rule = "what goes to mpiexec begins with one of its options"
        fix = f"leave {words[0]!r} out, or put the option in front of it, behind --"
        raise ConfigError(refusal("command line", f"{' '.join(words)!r} for mpiexec", rule, fix=fix))
    return [*(host_options(hosts) if hosts else ()), *words]
