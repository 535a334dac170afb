"""Sums and training between hosts: two hosts made on this machine, with a link of known speed between them.

    python -m benchmarks.several_hosts [--rate 1gbit] [--json]          as root; see hosts.py for what it needs

Two measurements, each against what the link allows (wire time: the bytes that one host has to send, at the nominal rate):

    all-reduce    4 MiB on 2 hosts x 2 ranks: autopar sums within the host first, so that every byte crosses once; MPI's own
    training      the ResNet on 2 hosts x 1 rank. Gradient sums travel while backward still computes, so that the bound is
                  forward + max(backward, wire time of the gradients); blocking sums take forward + backward + wire time
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

import autopar
from autopar.ir import machine as machines
from benchmarks.models import EVERY, batch, seeded
from benchmarks.options import add_json, described
from benchmarks.several_hosts.hosts import hosts
from benchmarks.several_hosts.links import ask, bytes_per_second, check

BYTES = 4 << 20
MODEL = "resnet"


def compile_for_hosts(folder: Path, rate: float) -> None:
    """The model for two ranks that a slow link joins."""
    cpu = machines.load("cpu")
    machine = replace(cpu, ranks_per_node=1, overlap=1.0, inter=replace(cpu.inter, beta=rate))
    model = EVERY[MODEL](False)
    autopar.compile(seeded(model), batch(model), grid="2", machine=machine, optimizer="sgd", name=MODEL).save(folder)


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    rate = bytes_per_second(options.rate)
    with tempfile.TemporaryDirectory() as place, hosts(2, options.rate):
        sums = ask(2, "sums", str(BYTES), str(options.rounds))
        folder = Path(place) / "build"
        compile_for_hosts(folder, rate)
        training = ask(1, "steps", MODEL, str(folder), str(options.rounds))
    wire = training["gradient_bytes"] / rate
    training["wire"] = wire
    training["bound"] = training["forward"] + max(training["backward"], wire)
    return {"all_reduce": {"wire": BYTES / rate} | sums, "training": training}


def table(title: str, rows: dict[str, float], base: str) -> Table:
    shown = Table("", title=title, title_justify="left")
    shown.add_column("ms", justify="right")
    shown.add_column(f"of {base}", justify="right")
    for name, seconds in rows.items():
        shown.add_row(name, f"{seconds * 1e3:.1f}", f"{seconds / rows[base]:.2f}")
    return shown


def arguments() -> argparse.Namespace:
    parser = described(__doc__)
    parser.add_argument("--rate", default="1gbit", help="of every host's link, as 1gbit or 500mbit")
    parser.add_argument("--rounds", type=int, default=9, help="turns, of which the first does not count (9)")
    add_json(parser)
    options = parser.parse_args()
    check(parser, "--rate", [options.rate])
    return options


def main() -> None:
    options = arguments()
    results = measure(options)
    if options.json:
        print(json.dumps(results, indent=1))
        return
    console = Console()
    training = dict(results["training"])
    size = training.pop("gradient_bytes")
    console.print(
        table(f"all-reduce of {BYTES >> 20} MiB, 2 hosts x 2 ranks, {options.rate}", results["all_reduce"], "wire")
    )
    console.print(table(f"ResNet, 2 hosts x 1 rank, {size / 1e6:.1f} MB of gradients", training, "bound"))


if __name__ == "__main__":
    main()
