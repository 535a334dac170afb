"""Several hosts: is the link found, does the plan follow it, and does the predicted step take as long as the measured one?

    python -m benchmarks.several_hosts.prediction [--rates 1gbit 500mbit] [--ranks 1 2] [--measure] [--json]

As root; see hosts.py for what it needs. Two hosts are made on this machine, with 1 and 2 ranks each. For every link

    bandwidth    what `autopar calibrate` finds between the hosts, beside the nominal rate, what TCP leaves of it (1448 of the 1514
                 bytes of a frame), and plain MPI messages of 4 MiB; the bar is 5 % of what TCP leaves
    plans        each model compiled with that profile: which letters are split, and the bytes of gradients that cross the link
    steps        predicted and measured seconds of a training step (SGD); the bar is 15 %

All ranks of all hosts share this machine's cores. The profile is measured in the same way, so that it knows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import autopar
from autopar.analysis.split_summary import sentence
from autopar.costmodel.calibration import calibrate
from autopar.costmodel.calibration_reader import read
from autopar.ir.graph import ITEMSIZE
from autopar.ir.machine import Machine, load
from autopar.ir.plan import Plan
from autopar.ir.units import bytes_text, rate_text
from autopar.jobs.launch import mpiexec
from benchmarks.models import MODELS, batch, seeded
from benchmarks.options import add_json, add_names, add_ranks, add_small, described
from benchmarks.several_hosts.hosts import hosts, missing, run

WORKER = "benchmarks.workers.hosts"
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
MESSAGE = 4 << 20
PAYLOAD = 1448 / 1514  # Ethernet frames without preamble, IP and TCP headers with time stamps


@dataclass(frozen=True, slots=True)
class Link:
    """Bytes per second of a host's link to the other one: as made, as plain messages reach, as calibrated; inside a host."""

    rate: str
    ranks: int
    nominal: float
    messages: float
    fitted: float
    inside: float | None
    seconds: float
    noise: tuple[str, ...]

    @property
    def payload(self) -> float:
        return self.nominal * PAYLOAD

    @property
    def off(self) -> float:
        return self.fitted / self.payload - 1


@dataclass(frozen=True, slots=True)
class Step:
    """One model's plan on one link: what it splits, gradients that are summed between hosts, seconds of a step."""

    model: str
    rate: str
    ranks: int
    split: str
    gradient_bytes: float
    predicted: float
    measured: float

    @property
    def off(self) -> float:
        return self.predicted / self.measured - 1


def ask(ranks: int, *words: str) -> dict[str, float]:
    """What rank 0 of the worker prints, when it runs on this many ranks of every host."""
    output = run(ranks, [sys.executable, "-m", "mpi4py", "-m", WORKER, *words], mpiexec())
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def link(nominal: str, ranks: int, folder: Path) -> tuple[Link, Machine]:
    """Calibrate on hosts that are there."""
    file = folder / "raw.json"
    module = [sys.executable, "-m", "mpi4py", "-m", "autopar.runtime.calibration.run", "--quiet", "--out", str(file)]
    run(ranks, module, mpiexec())
    raw = read(file)
    found = calibrate(raw, load("cpu"), f"two-hosts-{nominal}")
    messages = ask(ranks, "exchange", str(MESSAGE), "9")["seconds"]
    number, unit = re.fullmatch(r"(\d+)([kmg]bit)", nominal).groups()  # type: ignore[union-attr]  # checked
    machine = found.machine
    wire = float(number) * UNITS[unit] / 8
    speeds = (wire, ranks * MESSAGE / messages, ranks * machine.inter.beta, machine.intra.beta if ranks > 1 else None)
    return Link(nominal, ranks, *speeds, raw.seconds, found.noise), machine


def step(model: str, given: Link, machine: Machine, options: argparse.Namespace, folder: Path) -> Step:
    """Compile with the profile, and train on the hosts."""
    one = MODELS[model](options.small)
    grid = "2" if given.ranks == 1 else f"2x{given.ranks}"
    more = {"measure": True} if options.measure else {}
    compiled = autopar.compile(seeded(one), batch(one), grid=grid, machine=machine, optimizer="sgd", name=model, **more)
    place = folder / model
    compiled.save(place)
    measured = ask(given.ranks, "train", model, str(place), str(options.rounds), "small" if options.small else "full")
    plan = compiled.plan
    return Step(
        model, given.rate, given.ranks, sentence(plan), crossing(plan), plan.predicted.seconds, measured["seconds"]
    )


def crossing(plan: Plan) -> float:
    """Bytes of gradients that a host sends to the other: those of parameters that are copied over the first axis."""
    trained = (one for one in plan.parameters if one.kind == "parameter" and one.layouts[0] == "copied")
    return float(sum(math.prod(one.shape) * ITEMSIZE[one.dtype] for one in trained))


def show(links: list[Link], steps: list[Step], console: Console) -> None:
    made = Table("link", title="bandwidth of a host's link", title_justify="left")
    for name in (
        "ranks per host",
        "nominal",
        "payload",
        "plain messages",
        "calibrated",
        "off",
        "inside a host",
        "seconds",
        "noisy",
    ):
        made.add_column(name, justify="right")
    for one in links:
        inside = rate_text(one.inside) if one.inside else "-"
        rates = (rate_text(one.nominal), rate_text(one.payload), rate_text(one.messages), rate_text(one.fitted))
        cells = (str(one.ranks), *rates, f"{one.off:+.1%}", inside)
        made.add_row(one.rate, *cells, f"{one.seconds:.0f}", str(len(one.noise)))
    console.print(made)
    made = Table("model", "link", "ranks", "split", title="plans and steps", title_justify="left")
    for name in ("gradients between hosts", "predicted, ms", "measured, ms", "off"):
        made.add_column(name, justify="right")
    for each in steps:
        times = (f"{each.predicted * 1e3:.0f}", f"{each.measured * 1e3:.0f}", f"{each.off:+.1%}")
        made.add_row(each.model, each.rate, f"2x{each.ranks}", each.split, bytes_text(each.gradient_bytes), *times)
    console.print(made)


def arguments() -> argparse.Namespace:
    parser = described(__doc__)
    parser.add_argument("--rates", nargs="+", default=["1gbit", "500mbit"], help="of every host's link (1gbit 500mbit)")
    add_ranks(parser, (1, 2), "per host")
    add_names(parser, "--models", MODELS, "MODEL", least=0)
    parser.add_argument("--rounds", type=int, default=13, help="steps, of which the first does not count (13)")
    parser.add_argument(
        "--measure", action="store_true", help="price calls by timing them, as `compile --measure` does"
    )
    add_small(parser)
    add_json(parser)
    options = parser.parse_args()
    for one in options.rates:
        if not re.fullmatch(r"\d+[kmg]bit", one):
            parser.error(f"--rates {one}: a whole number and kbit, mbit or gbit, as in 500mbit")
    if lacking := missing():
        parser.error(f"cannot make hosts on this machine: {lacking}")
    return options


def main() -> None:
    options = arguments()
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else 150)
    links, steps = [], []
    for nominal in options.rates:
        for ranks in options.ranks:
            with tempfile.TemporaryDirectory() as place, hosts(2, nominal):
                console.print(f"{nominal}, {ranks} ranks on each of 2 hosts: calibrating", highlight=False)
                found, machine = link(nominal, ranks, Path(place))
                links.append(found)
                for model in options.models:
                    console.print(f"  {model}", highlight=False)
                    steps.append(step(model, found, machine, options, Path(place)))
    if options.json:
        rows = [asdict(one) | {"off": one.off} for one in (*links, *steps)]
        print(json.dumps({"links": rows[: len(links)], "steps": rows[len(links) :]}, indent=1))
    else:
        show(links, steps, console)
        console.print(f"load of the machine in the last minute: {os.getloadavg()[0]:.1f}", highlight=False)


if __name__ == "__main__":
    main()
