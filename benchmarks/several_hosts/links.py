"""What both measurements between hosts share: the rate of a link in words, and a worker that runs on all hosts."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable

from autopar.jobs.launch import mpiexec
from benchmarks.several_hosts.hosts import missing, run

WORKER = "benchmarks.workers.hosts"
_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_RATE = re.compile(r"(\d+)([kmg]bit)")


def bytes_per_second(rate: str) -> float:
    """``"1gbit"``, as `tc` writes it, as a number."""
    number, unit = _RATE.fullmatch(rate).groups()  # type: ignore[union-attr]  # checked by `check`
    return float(number) * _UNITS[unit] / 8


def check(parser: argparse.ArgumentParser, option: str, rates: Iterable[str]) -> None:
    """Refuse rates that are none, and machines on which no hosts can be made."""
    for rate in rates:
        if not _RATE.fullmatch(rate):
            parser.error(f"{option} {rate}: a whole number and kbit, mbit or gbit, as in 500mbit")
    if lacking := missing():
        parser.error(f"cannot make hosts on this machine: {lacking}")


def ask(per_host: int, *words: str) -> dict[str, float]:
    """What rank 0 of the worker prints, when it runs on this many ranks of every host."""
    output = run(per_host, [sys.executable, "-m", "mpi4py", "-m", WORKER, *words], mpiexec())
    answer: dict[str, float] = json.loads(output.splitlines()[-1])
    return answer
