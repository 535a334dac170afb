"""``autopar calibrate -n 2 -o machine.toml``: measures this machine, or a cluster, and writes its profile.

With ``--json`` one object: ``file``; ``machine``, the profile as a table; ``fits``, per movement and place the ranks of a group,
bytes, pieces (``until``, ``alpha``, ``beta``), ``median_error`` and ``worst_error`` (relative), and ``spread`` of the repeats;
``rates``; ``noise``, what is too noisy, in words; ``seconds`` that measuring took.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from autopar.cli import launch_options
from autopar.cli.option_types import count
from autopar.files import check_file, write_file
from autopar.ir.units import bytes_text, rate_text

if TYPE_CHECKING:
    from autopar.costmodel.calibration import Calibrated, FittedCurve
    from autopar.ir.calibration_data import Measurements

NAME = "calibrate"
TEXT = "measure this machine and write its profile"
_MODULE = "autopar.runtime.calibration.run"
_RULE = "a profile is one TOML file"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("-n", type=count(1), metavar="RANKS", help="ranks that measure together (one per core)")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="the profile to write, as in machine.toml"
    )
    launch_options.add_hosts(parser, "autopar calibrate -n 4 -o cluster.toml -- -hosts a:2,b:2")
    parser.add_argument("--base", default="cpu", metavar="MACHINE", help="profile that has what is not measured (cpu)")
    what = "take measurements that a job of your own has written, instead of starting one"
    parser.add_argument("--from", dest="raw", metavar="FILE", help=what)
    parser.add_argument(
        "--accept-noise", action="store_true", help="write the profile even if the machine was too busy"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a trial with small tensors; its profile is not to be used"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Measure, fit, show and write; 1 where the machine was too noisy, or the job failed."""
    from autopar.costmodel.calibration import calibrate
    from autopar.costmodel.calibration_reader import read_measurements
    from autopar.ir import machine

    output = Path(arguments.output)
    _check(arguments, output)
    base = machine.load(arguments.base)
    if arguments.raw:
        raw = read_measurements(Path(arguments.raw))
    else:
        with tempfile.TemporaryDirectory(prefix=".calibration-", dir=output.absolute().parent) as folder:
            file = Path(folder) / "raw.json"  # beside the profile: hosts share that folder, if any
            status = _measure(arguments, file)
            if status:
                return status
            raw = read_measurements(file)
    results = calibrate(raw, base, output.stem)
    written = not results.noise or arguments.accept_noise
    if arguments.json:
        print(json.dumps(_facts(results, raw, output if written else None)))
    else:
        _show(results, raw)
    if not written:
        print(f"autopar: {_refused(results, output)}", file=sys.stderr)
        return 1
    write_file("-o", output, _text(results, raw, arguments.base), _RULE)
    if not arguments.json:
        _end(results, raw, output)
    return 0


def _check(arguments: argparse.Namespace, output: Path) -> None:
    """Refuse before the measurement what would only be found after it."""
    from autopar.errors import ConfigError, refusal

    if output.suffix != ".toml" or output.is_dir() or not output.absolute().parent.is_dir():
        fault = "is a folder" if output.is_dir() else "is not a .toml file in a folder that exists"
        raise ConfigError(refusal(f"-o {output}", fault, _RULE, fix="write e.g. -o machine.toml"))
    check_file("-o", output, _RULE)
    both = [word for word, value in (("-n", arguments.n), ("--hosts", arguments.hosts)) if value]
    both += ["options for mpiexec"] if arguments.mpiexec else []
    if arguments.raw and both:
        rule = "with --from nothing is started: the file says which ranks have measured"
        raise ConfigError(refusal("--from", f"together with {', '.join(both)}", rule, fix="leave one of them out"))


def _measure(arguments: argparse.Namespace, file: Path) -> int:
    from autopar.jobs.launch import launch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options = launch_options.options(arguments.hosts, arguments.mpiexec)
    words = ["--out", str(file), *(["--quick"] if arguments.quick else []), *(["--quiet"] if arguments.json else [])]
    return launch(_MODULE, arguments.n or cores, words, quiet=True, options=options)


def _text(results: Calibrated, raw: Measurements, base: str) -> str:
    from autopar.ir.machine_toml import text

    worst = max((row.curve.median_error for row in results.rows), default=0.0)
    which = "the fastest" if results.machine.ranks else "a"
    notes = [
        f"Measured by `autopar calibrate`: {len(raw.places)} ranks on {raw.hosts} hosts of {raw.cores} cores, {raw.software}.",
        f"Rates are those of {which} rank on a core of its own. Fits are off by at most {worst:.1%} at half of their points.",
        f"Not measured, but as in the profile {base!r}: memory_bytes{'' if raw.hosts > 1 else ', ranks_per_node, [inter]'}.",
    ]
    notes += ["A quick trial: not to be used."] if raw.quick else []
    notes += [f"Noisy: {value}" for value in results.noise]
    return text(results.machine, notes, {} if raw.hosts > 1 else {"inter": "not measured: all ranks were on one host"})


def _refused(results: Calibrated, output: Path) -> str:
    from autopar.errors import refusal

    rule = "what is measured has to repeat itself, and fits have to be close"
    noisy = "the machine is too noisy; nothing was written"
    fix = "measure while nothing else runs, with at most one rank per core, or say --accept-noise"
    return refusal(f"calibration for {output}", noisy, rule, results.noise, fix)


def _show(results: Calibrated, raw: Measurements) -> None:
    from autopar.cli.tables import show, table

    columns = ("movement", "place", "ranks", "up to", "alpha", "beta", "error", "worst", "apart", "spread")
    listing = table(*columns, numbers=4)
    for row in results.rows:
        quality = row.curve.median_error, row.curve.worst_error, row.apart, row.spread
        about = [(_named(row), row.place, str(row.ranks)), tuple(f"{error:.1%}" for error in quality)]
        for cells in _pieces(row):
            listing.add_row(*about[0], *cells, *about[1])
            about = [("",) * 3, ("",) * 4]
    if results.rows:
        show(
            listing,
            title="seconds by bytes: alpha + bytes / beta in each piece; errors of the fit at half of all sizes, and at worst",
        )
    rates = table("rate", "per second", "spread", numbers=1)
    for rate in results.rates:
        rates.add_row(rate.name, _rate(rate.value, rate.unit), f"{rate.spread:.1%}")
    show(rates, title=f"{len(raw.places)} ranks computing at once")


def _pieces(row: FittedCurve) -> list[tuple[str, str, str]]:
    from autopar.ir.machine import Fit

    curve = row.curve
    pieces = Fit(row.place, row.move, row.ranks, curve.alpha, curve.until, curve.beta).pieces()
    return [
        (bytes_text(min(until, row.largest)), f"{alpha * 1e6:.3g} us", rate_text(beta) if beta < 1e13 else "-")
        for until, alpha, beta in pieces
    ]


def _named(row: FittedCurve) -> str:
    return f"{row.move}: {' '.join(row.primitives)}" if row.primitives != (row.move,) else row.move


def _rate(value: float, unit: str) -> str:

    if unit == "s":
        return f"{value * 1e6:.3g} us each"
    return rate_text(value) if unit == "B/s" else f"{value / 1e9:.3g} Gop/s"


def _facts(results: Calibrated, raw: Measurements, file: Path | None) -> dict[str, object]:
    from autopar.ir.machine import table

    rows = [dataclasses.asdict(row) for row in results.rows]
    fits = [{key: value for key, value in row.items() if key != "curve"} | row["curve"] for row in rows]
    return {
        "file": None if file is None else str(file),
        "machine": table(results.machine),
        "fits": fits,
        "rates": [dataclasses.asdict(rate) for rate in results.rates],
        "noise": results.noise,
        "hosts": raw.hosts,
        "ranks": len(raw.places),
        "seconds": raw.seconds,
    }


def _end(results: Calibrated, raw: Measurements, output: Path) -> None:
    from autopar.cli.tables import say

    machine, each = results.machine, raw.ranks_per_node
    if each > 1:
        say(f"inside a host   {machine.intra.alpha * 1e6:.3g} us, {rate_text(machine.intra.beta)} per rank")
    if raw.hosts > 1:
        whole = f", {rate_text(machine.inter.beta * each)} per host" if each > 1 else ""
        say(f"between hosts   {machine.inter.alpha * 1e6:.3g} us, {rate_text(machine.inter.beta)} per rank{whole}")
    for one in machine.ranks:
        say(f"slower          ranks {one.ranks}: {one.speed:g} of these rates")
    if results.noise:
        say(f"noisy           {len(results.noise)} measurements, listed in the file")
    say(
        f"wrote           {output}, in {raw.seconds:.0f} s",
        f"next            autopar compile model.py --grid ... --machine {output}",
    )
