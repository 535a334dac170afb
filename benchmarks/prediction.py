"""Predicted against measured: seconds and memory of a step, for the four models with several plans each, on two ranks.

Every plan is priced three times: by the shipped profile `cpu`, by a profile calibrated here, and by that profile with every
call timed at its local shapes (`autopar compile --measure`). Then all plans of a model run in turns in the same minutes, as
in step_time.py, and a plan's time is the median of its steps. In one step more, which does not count, every rank follows the
bytes of its tensors.

    error       predicted / measured - 1, of seconds and of the peak of bytes on the rank that holds most
    rank corr.  Spearman's, over all plans of all models: do the prices order plans as the clock does?
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

import autopar
from autopar.compiler import Compiled
from autopar.costmodel.op_timings import UNMEASURED
from autopar.errors import InfeasiblePlan
from autopar.ir import machine as machines
from autopar.ir.machine import Machine
from autopar.ir.units import bytes_text
from autopar.partitioner.formulation import priced_problem
from autopar.planning import pins
from autopar.planning.candidate import candidate_of
from benchmarks.contenders import CONTENDERS
from benchmarks.jobs import Job, take_turns
from benchmarks.models import MODELS, Model, batch, seeded
from benchmarks.options import add_names, described, timed

SETTLE = 2
PRICES = ("shipped", "calibrated", "measured")

# What the plans of a model are pinned to, beside the one that the planner chooses freely.
PLANS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "gpt2": {
        "chosen": (),
        "batch": ("*: b0@axis0",),
        "heads and features": (
            "*.attn.c_attn: n@axis0", "*.attn: b1@axis0", "*.attn.c_proj: k@axis0",
            "*.c_fc: n@axis0", "*.mlp.c_proj: k@axis0",
        ),
        "features in": ("*.c_attn: k@axis0", "*.c_fc: k@axis0", "*.c_proj: n@axis0"),
        "vocabulary": ("lm_head: n@axis0", "*.attn: b0@axis0"),
        "layers whole": ("transformer.h.*: replicate@axis0",),
    },
    "resnet": {
        "chosen": (),
        "batch": ("*: n@axis0",),
        "rows": ("*convolution: h@axis0", "*normalization: s0@axis0"),
        "channels out": ("*convolution: k@axis0",),
        "channels in": ("*layers*convolution: c@axis0",),
        "late stages whole": ("resnet.encoder.stages.3*: replicate@axis0",),
    },
    "mlp": {
        "chosen": (),
        "batch": ("fc*: b0@axis0",),
        "features out": ("fc*: n@axis0",),
        "features in": ("fc*: k@axis0",),
        "first two whole": ("fc1: replicate@axis0", "fc2: replicate@axis0"),
    },
    "unet": {
        "chosen": (),
        "depth": ("*: d@axis0",),
        "width": ("*: w@axis0",),
        "channels out": ("*.0: k@axis0", "*.3: k@axis0"),
        "channels in": ("*.3: c@axis0", "up*.0: c@axis0"),
        "bottom whole": ("bottom.*: replicate@axis0",),
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlanPrediction:
    """One plan: predicted seconds by each way of pricing, measured seconds, and bytes at the peak."""

    model: str
    plan: str
    predicted: Mapping[str, float]
    seconds: float
    spread: float
    predicted_bytes: int
    bytes: int

    def error(self, price: str) -> float:
        return self.predicted[price] / self.seconds - 1

    @property
    def bytes_error(self) -> float:
        return self.predicted_bytes / self.bytes - 1


@dataclass(frozen=True, slots=True)
class Taken:
    """What a plan took: seconds of every step, and the most bytes that a rank held."""

    seconds: list[float]
    peak: int


def priced(compiled: Compiled, machine: Machine, measured: bool) -> float:
    """Predicted seconds of a step of this very plan under another profile, with or without measured calls."""
    old, grid = compiled.built, compiled.built.grid
    annotated = compiled.subject.annotated
    constraints = pins.apply(pins.parse(compiled.plan.options.pins, grid), annotated, grid)
    built = priced_problem.build(
        annotated, grid, machine, constraints,
        limit=None, optimizer="sgd", gathered=False,
        timings=old.timings if measured else UNMEASURED,
    )  # fmt: skip
    assert built.keys == old.keys
    assert built.options == old.options
    return candidate_of(built, compiled.solution, compiled.plan.options.optimizer).seconds


def prepare(model: Model, machine: Machine, small: bool, place: Path, log: Console) -> dict[str, Compiled]:
    """Every plan of the model, compiled with measured calls into a folder of its own."""
    plans: dict[str, Compiled] = {}
    for number, (label, pinned) in enumerate(PLANS[model.name].items()):
        try:
            compiled = autopar.compile(
                seeded(model), batch(model),
                grid="2", machine=machine, optimizer="sgd", name=model.name, pin=pinned, measure=True,
            )  # fmt: skip
        except (autopar.errors.ConfigError, InfeasiblePlan) as error:
            log.print(f"{model.name}, {label}: {error}", markup=False, style="red")
            continue
        folder = place / f"{model.name}-{number}"
        folder.mkdir()
        compiled.save(folder / "compiled")
        plans[label] = compiled
    return plans


def measure(
    model: Model, labels: Sequence[str], options: argparse.Namespace, place: Path, log: Console
) -> dict[str, Taken]:
    """The steps of every plan, which take turns, and its peak."""
    numbers = list(PLANS[model.name])
    jobs: dict[str, Job] = {}
    try:
        for label in labels:
            folder = place / f"{model.name}-{numbers.index(label)}"
            jobs[label] = Job(CONTENDERS["autopar"], model.name, options.small, folder)
        turns = take_turns(jobs, options.rounds, options.steps, log, SETTLE)
        return {label: Taken([*chain(*turns[label].rounds)], job.peak()) for label, job in jobs.items()}
    finally:
        for job in jobs.values():
            job.close()


def rank_correlation(rows: Sequence[PlanPrediction], price: str) -> float:
    """Spearman's: the correlation of ranks."""
    ranks = [
        np.argsort(np.argsort(values)) for values in ([r.predicted[price] for r in rows], [r.seconds for r in rows])
    ]
    return float(np.corrcoef(*ranks)[0, 1])


def rows_of(name: str, machine: Machine, options: argparse.Namespace, log: Console) -> list[PlanPrediction]:
    model = MODELS[name](options.small)
    shipped = replace(machines.load("cpu"), memory_bytes=machine.memory_bytes)
    with tempfile.TemporaryDirectory() as place:
        plans = prepare(model, machine, options.small, Path(place), log)
        taken = measure(model, list(plans), options, Path(place), log)
    rows = []
    for label, compiled in plans.items():
        predicted = {
            "shipped": priced(compiled, shipped, measured=False),
            "calibrated": priced(compiled, machine, measured=False),
            "measured": compiled.plan.predicted.seconds,
        }
        low, high = np.percentile(taken[label].seconds, [25, 75])
        middle = median(taken[label].seconds)
        nbytes = (compiled.plan.predicted.bytes, taken[label].peak)
        rows.append(PlanPrediction(name, label, predicted, middle, float(high - low) / 2 / middle, *nbytes))
    return rows


def table(rows: Sequence[PlanPrediction]) -> Table:
    shown = Table("model", "plan", title="one step on two ranks, predicted / measured", title_justify="left")
    for heading in (
        "measured, ms",
        "+-",
        *PRICES,
        *(f"{price}, error" for price in PRICES),
        "peak",
        "predicted",
        "error",
    ):
        shown.add_column(heading, justify="right")
    for row in rows:
        figures = [f"{row.predicted[price] * 1e3:.1f}" for price in PRICES]
        errors = [f"{row.error(price):+.1%}" for price in PRICES]
        peaks = (bytes_text(row.bytes), bytes_text(row.predicted_bytes), f"{row.bytes_error:+.1%}")
        shown.add_row(row.model, row.plan, f"{row.seconds * 1e3:.1f}", f"{row.spread:.1%}", *figures, *errors, *peaks)
    return shown


def summary(rows: Sequence[PlanPrediction]) -> dict[str, dict[str, float]]:
    memory = [abs(row.bytes_error) for row in rows]
    return {"peak": {"worst_error": max(memory), "median_error": median(memory)}} | {
        price: {
            "worst_error": max(abs(row.error(price)) for row in rows),
            "median_error": median(abs(row.error(price)) for row in rows),
            "rank_correlation": rank_correlation(rows, price),
        }
        for price in PRICES
    }


def arguments() -> argparse.Namespace:
    parser = described(__doc__)
    add_names(parser, "--models", MODELS, "MODEL")
    parser.add_argument("--machine", default="cpu", help="a calibrated profile: autopar calibrate -n 2 -o FILE (cpu)")
    return timed(parser, 5, "every plan")


def main() -> None:
    options = arguments()
    log = Console(stderr=options.json, width=200)
    machine = machines.load(options.machine)
    rows = [row for name in options.models for row in rows_of(name, machine, options, log)]
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "summary": summary(rows)}, indent=1))
        return
    log.print(table(rows))
    for what, figures in summary(rows).items():
        ranking = f", rank correlation {figures['rank_correlation']:.3f}" if "rank_correlation" in figures else ""
        worst = f"worst error {figures['worst_error']:.1%}, median {figures['median_error']:.1%}"
        log.print(f"  {what}: {worst}{ranking} over {len(rows)} plans", highlight=False)
    log.print(f"load of the machine in the last minute: {os.getloadavg()[0]:.1f}", highlight=False)


if __name__ == "__main__":
    main()
