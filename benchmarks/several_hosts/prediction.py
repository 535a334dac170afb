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
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import autopar
from autopar.analysis.split_summary import sentence
from autopar.costmodel.calibration import calibrate
from autopar.costmodel.calibration_reader import read_measurements
from autopar.ir.graph import ITEMSIZE
from autopar.ir.machine import Machine, load
from autopar.ir.plan import Plan
from autopar.ir.units import bytes_text, rate_text
from autopar.jobs.launch import mpiexec
from benchmarks.models import MODELS, batch, seeded
from benchmarks.options import add_json, add_names, add_ranks, add_small, described
from benchmarks.several_hosts.hosts import hosts, run
from benchmarks.several_hosts.links import ask, bytes_per_second, check

MESSAGE = 4 << 20
PAYLOAD = 1448 / 1514  # Ethernet frames without preamble, IP and TCP headers with time stamps


@dataclass(frozen=True, slots=True)
class HostLink:
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
class StepPrediction:
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


def link(nominal: str, ranks: int, folder: Path) -> tuple[HostLink, Machine]:
    """Calibrate on hosts that are there."""
    file = folder / "raw.json"
    module = [sys.executable, "-m", "mpi4py", "-m", "autopar.runtime.calibration.run", "--quiet", "--out", str(file)]
    run(ranks, module, mpiexec())
    raw = read_measurements(file)
    calibrated = calibrate(raw, load("cpu"), f"two-hosts-{nominal}")
    messages = ask(ranks, "exchange", str(MESSAGE), "9")["seconds"]
    machine = calibrated.machine
    wire = bytes_per_second(nominal)
    speeds = (wire, ranks * MESSAGE / messages, ranks * machine.inter.beta, machine.intra.beta if ranks > 1 else None)
    return HostLink(nominal, ranks, *speeds, raw.seconds, calibrated.noise), machine


def step(model: str, between: HostLink, machine: Machine, options: argparse.Namespace, folder: Path) -> StepPrediction:
    """Compile with the profile, and train on the hosts."""
    built = MODELS[model](options.small)
    grid = "2" if between.ranks == 1 else f"2x{between.ranks}"
    more = {"measure": True} if options.measure else {}
    compiled = autopar.compile(
        seeded(built), batch(built), grid=grid, machine=machine, optimizer="sgd", name=model, **more
    )
    place = folder / model
    compiled.save(place)
    measured = ask(between.ranks, "train", model, str(place), str(options.rounds), "small" if options.small else "full")
    plan = compiled.plan
    return StepPrediction(
        model, between.rate, between.ranks, sentence(plan), crossing(plan), plan.predicted.seconds, measured["seconds"]
    )


def crossing(plan: Plan) -> float:
    """Bytes of gradients that a host sends to the other: those of parameters that are copied over the first axis."""
    trained = (
        parameter for parameter in plan.parameters if parameter.kind == "parameter" and parameter.layouts[0] == "copied"
    )
    return float(sum(math.prod(parameter.shape) * ITEMSIZE[parameter.dtype] for parameter in trained))


def show(links: list[HostLink], steps: list[StepPrediction], console: Console) -> None:
    shown = Table("link", title="bandwidth of a host's link", title_justify="left")
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
        shown.add_column(name, justify="right")
    for row in links:
        inside = rate_text(row.inside) if row.inside else "-"
        rates = (rate_text(row.nominal), rate_text(row.payload), rate_text(row.messages), rate_text(row.fitted))
        cells = (str(row.ranks), *rates, f"{row.off:+.1%}", inside)
        shown.add_row(row.rate, *cells, f"{row.seconds:.0f}", str(len(row.noise)))
    console.print(shown)
    shown = Table("model", "link", "ranks", "split", title="plans and steps", title_justify="left")
    for name in ("gradients between hosts", "predicted, ms", "measured, ms", "off"):
        shown.add_column(name, justify="right")
    for each in steps:
        times = (f"{each.predicted * 1e3:.0f}", f"{each.measured * 1e3:.0f}", f"{each.off:+.1%}")
        shown.add_row(each.model, each.rate, f"2x{each.ranks}", each.split, bytes_text(each.gradient_bytes), *times)
    console.print(shown)


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
    check(parser, "--rates", options.rates)
    return options


def main() -> None:
    options = arguments()
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else 150)
    links, steps = [], []
    for nominal in options.rates:
        for ranks in options.ranks:
            with tempfile.TemporaryDirectory() as place, hosts(2, nominal):
                console.print(f"{nominal}, {ranks} ranks on each of 2 hosts: calibrating", highlight=False)
                measured, machine = link(nominal, ranks, Path(place))
                links.append(measured)
                for model in options.models:
                    console.print(f"  {model}", highlight=False)
                    steps.append(step(model, measured, machine, options, Path(place)))
    if options.json:
        rows = [asdict(row) | {"off": row.off} for row in (*links, *steps)]
        print(json.dumps({"links": rows[: len(links)], "steps": rows[len(links) :]}, indent=1))
    else:
        show(links, steps, console)
        console.print(f"load of the machine in the last minute: {os.getloadavg()[0]:.1f}", highlight=False)


if __name__ == "__main__":
    main()
