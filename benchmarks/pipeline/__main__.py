"""A graph divided into stages, side by side in one run: torch.distributed.pipelining (gloo) and autopar, on the same cuts.

Both train the same GPT-2, cut between the same blocks, in the same micro-batches, in torch's schedules; autopar is pinned
to the cuts. Beside that autopar as it divides the graph itself, with a schedule that it finds. A step is forward, backward and
SGD; all contenders with as many ranks take turns. `predicted` is the plan's step and memory of the fullest rank, whose memory
is measured through one step more. With more ranks than cores the predicted step says nothing: it is for a core per rank.

The U-Net has skip connections between stages that are not neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

import autopar
from autopar.compiler import Compiled
from autopar.ir import machine as machines
from autopar.ir.machine import Machine
from benchmarks.contenders import CONTENDERS, STAGED
from benchmarks.jobs import Job, JobFailed, ratio, take_turns
from benchmarks.models import DIVIDED, Model, batch, seeded
from benchmarks.options import add_names, add_ranks, described, timed
from benchmarks.pipeline.division import Division

SCHEDULES = ("1f1b", "interleaved")
WHO = {"torch": STAGED, "autopar": CONTENDERS["autopar"], "free": CONTENDERS["autopar"]}
SETTLE = 2
COMPARED = 2  # losses: later ones drift apart by rounding
MICROBATCHES = {"deep_gpt2": 8, "group_unet": 4}


@dataclass(frozen=True, slots=True)
class Row:
    """One way to train a divided model: seconds of every step by round, bytes of every rank, what the plan says; or why not.

    `schedule` is that of the division that torch and autopar share, and ``auto`` where autopar divides for itself.
    """

    who: str
    model: str
    ranks: int
    schedule: str
    rounds: tuple[tuple[float, ...], ...] = ()
    losses: tuple[float, ...] = ()
    peaks: tuple[int, ...] = ()
    predicted_seconds: float = 0.0
    predicted_bytes: tuple[float, ...] = ()
    refused: str = ""

    @property
    def seconds(self) -> float:
        return median(second for turn in self.rounds for second in turn)


def pins(model: Model, division: Division) -> Iterator[str]:
    """The division, as autopar is told it: GPT-2 by blocks, and the U-Net by its levels."""
    if model.name == "group_unet":
        levels = (("down1*",), ("down2*",), ("bottom*", "rise2*", "up2*", "rise1*"), ("up1*", "head*"))
        for stage, patterns in enumerate(levels):
            yield from (f"{pattern}: stage={division.rank(stage)}" for pattern in patterns)
        return
    layers = len(getattr(seeded(model), "transformer").h)  # noqa: B009 (a module of transformers)
    yield "transformer.w*: stage=0"
    for stage in range(division.stages):
        at = division.rank(stage)
        for i in division.blocks(stage, layers):
            yield from (f"transformer.h.{i}: stage={at}", f"transformer.h.{i}.*: stage={at}")
    yield from (f"{end}: stage={division.ranks - 1}" for end in ("transformer.ln_f", "lm_head"))


def compiled(model: Model, division: Division, machine: Machine, measure: bool) -> Compiled:
    """The model on the division; a schedule ``auto`` leaves all to autopar but the number of micro-batches."""
    free = division.schedule == "auto"
    return autopar.compile(
        seeded(model), batch(model),
        grid=f"stage:{division.ranks}", machine=machine, optimizer="sgd", name=model.name, measure=measure,
        pin=[] if free else list(pins(model, division)),
        microbatches=division.microbatches, schedule=division.schedule, segments=None if free else division.segments,
    )  # fmt: skip


def opened(row: Row, model: Model, place: Path, machine: Machine, options: argparse.Namespace) -> tuple[Row, Job]:
    """The job of a row, with what its plan predicts. Raises JobFailed."""
    division = Division(row.ranks, row.schedule, MICROBATCHES[model.name])
    place.mkdir()
    division.save(place)
    if row.who != "torch":
        made = compiled(model, division, machine, options.measure)
        made.save(place / "compiled")
        placement = made.plan.placement
        assert placement is not None
        row = replace(row, predicted_seconds=placement.makespan, predicted_bytes=placement.bytes)
    return row, Job(replace(WHO[row.who], processes=row.ranks), model.name, options.small, place)


def run(
    model: Model, rows: Sequence[Row], machine: Machine, options: argparse.Namespace, log: Console, rounds: int
) -> list[Row]:
    """Start all, and let them take turns."""
    jobs: dict[str, Job] = {}
    found: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as place:
        try:
            for row in rows:
                key = f"{row.who}-{row.ranks}-{row.schedule}"
                found[key], job = opened(row, model, Path(place) / key, machine, options)
                jobs[key] = job
            turns = take_turns(jobs, rounds, options.steps, log, SETTLE)
            return [
                replace(row, rounds=turns[key].rounds, losses=turns[key].losses, peaks=tuple(jobs[key].peaks()))
                for key, row in found.items()
            ]
        finally:
            for job in jobs.values():
                job.close()


def refused(model: Model, row: Row, machine: Machine, options: argparse.Namespace, log: Console) -> list[Row]:
    """Rows of a model that may be refused, each alone."""
    try:
        return run(model, [row], machine, options, log, rounds=1)
    except JobFailed as error:
        lines = [line for line in str(error).splitlines() if "Error: " in line]
        return [replace(row, refused=next((line for line in lines if "closed by peer" not in line), lines[-1]))]


def table(rows: Sequence[Row]) -> Table:
    shown = Table("ranks", "schedule", "who", title=rows[0].model, title_justify="left")
    for heading in ("ms/step", "of torch", "predicted", "error", "fullest rank, MB", "predicted", "error", "loss"):
        shown.add_column(heading, justify="right")
    for row in rows:
        if row.refused:
            continue
        torchs = [one for one in rows if one.who == "torch" and one.ranks == row.ranks and one.rounds]
        base = next((one for one in torchs if one.schedule == row.schedule), None)
        part = f"{ratio(row, base):.3f}" if base and base is not row else ""
        step, most = [""] * 2, [""] * 2
        if row.predicted_seconds:
            step = [f"{row.predicted_seconds * 1e3:.0f}", f"{row.predicted_seconds / row.seconds - 1:+.1%}"]
            wide = max(row.predicted_bytes)
            most = [f"{wide / 1e6:.1f}", f"{wide / max(row.peaks) - 1:+.1%}"]
        cells = [f"{row.seconds * 1e3:.0f}", part, *step, f"{max(row.peaks) / 1e6:.1f}", *most]
        shown.add_row(str(row.ranks), row.schedule, row.who, *cells, f"{row.losses[COMPARED - 1]:.5f}")
    return shown


def wanted(model: Model, options: argparse.Namespace) -> list[list[Row]]:
    """The rows of a model, by what takes turns."""
    if model.name == "group_unet":
        return [[Row(who, model.name, 2, "interleaved")] for who in ("torch", "autopar")]
    return [
        [Row(who, model.name, ranks, schedule) for schedule in options.schedules for who in ("torch", "autopar")]
        + [Row("free", model.name, ranks, "auto")]
        for ranks in options.ranks
    ]


def results(name: str, machine: Machine, options: argparse.Namespace, log: Console) -> list[Row]:
    model = DIVIDED[name](options.small)
    if name == "group_unet":
        return [
            row for rows in wanted(model, options) for one in rows for row in refused(model, one, machine, options, log)
        ]
    return [row for rows in wanted(model, options) for row in run(model, rows, machine, options, log, options.rounds)]


def arguments() -> argparse.Namespace:
    parser = described(__doc__)
    add_names(parser, "--models", DIVIDED, "MODEL")
    add_names(parser, "--schedules", SCHEDULES, "SCHEDULE")
    add_ranks(parser, (2, 4))
    parser.add_argument("--machine", default="cpu", help="a calibrated profile: autopar calibrate -n 2 -o FILE (cpu)")
    parser.add_argument("--measure", action="store_true", help="plan by calls timed on this machine")
    return timed(parser, 5, "every contender")


def main() -> None:
    options = arguments()
    log = Console(stderr=options.json, width=160)
    machine = machines.load(options.machine)
    every = [results(name, machine, options, log) for name in options.models]
    load = os.getloadavg()[0]
    if options.json:
        records = [asdict(row) | ({"median_s": row.seconds} if row.rounds else {}) for rows in every for row in rows]
        print(json.dumps({"load": load, "rows": records}, indent=1))
        return
    for rows in every:
        log.print(table(rows))
        for row in rows:
            if row.refused:
                log.print(f"  not run: {row.who}, {row.schedule} on {row.ranks}: {row.refused}", markup=False)
    log.print(f"load of the machine in the last minute: {load:.1f}", highlight=False)


if __name__ == "__main__":
    main()
