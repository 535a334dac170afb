"""Predicted and measured peak of memory per rank, for every model under several plans, on two ranks and on one.

The prediction is the plan's; what is measured are the bytes of tensors that a rank holds through its third training step
(`autopar.runtime.profiling.memory_use`), the most of any rank. Plans that say nothing about a model (a batch of one cannot be
split) are left out, and named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import autopar
from autopar.errors import ConfigError
from autopar.jobs.launch import command
from benchmarks.models import MODELS, Model, batch, seeded
from benchmarks.options import add_json, add_names, add_small, described

WORKER = "benchmarks.workers.memory"
PLANS = ("auto", "data", "model", "domain")
PATIENCE = 300.0  # seconds for a job


@dataclass(frozen=True, slots=True)
class Result:
    """The peak of one plan, in bytes per rank; or why there is none."""

    model: str
    ranks: int
    plan: str
    predicted: int = 0
    measured: int = 0
    predicted_during: str = ""
    measured_during: str = ""
    refused: str = ""

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured


def results(model: Model, options: argparse.Namespace) -> Iterator[Result]:
    """The plans of a model on two ranks, then one rank alone."""
    for ranks, plan in [*((2, name) for name in options.plans), (1, "auto")]:
        try:
            yield measure(model, ranks, plan, options)
        except ConfigError as error:
            yield Result(model.name, ranks, plan, refused=str(error).splitlines()[0])


def measure(model: Model, ranks: int, plan: str, options: argparse.Namespace) -> Result:
    """Compile and run. Raises ConfigError where the plan does not apply."""
    compiled = autopar.compile(
        seeded(model), batch(model), grid=str(ranks), plan=plan, optimizer=options.optimizer, name=model.name
    )
    with tempfile.TemporaryDirectory() as place:
        folder = compiled.save(Path(place) / "compiled")
        words = [model.name, "small" if options.small else "full", options.optimizer, str(folder)]
        done = subprocess.run(
            command(WORKER, ranks, words), capture_output=True, text=True, timeout=PATIENCE, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    if done.returncode:
        sys.exit(f"{model.name}, {plan} plan on {ranks} ranks:\n{done.stderr[-2000:]}")
    most = max(json.loads(done.stdout.splitlines()[-1]), key=lambda one: int(one["peak"]))
    predicted = compiled.plan.predicted
    return Result(
        model.name, ranks, plan, predicted.bytes, int(most["peak"]), predicted.peak_during, str(most["during"])
    )


def table(found: list[Result]) -> Table:
    shown = Table("model", "ranks", "plan", title="peak of memory per rank, MB", title_justify="left")
    for heading in ("predicted", "measured", "ratio"):
        shown.add_column(heading, justify="right")
    shown.add_column("predicted to be in")
    for one in found:
        if not one.refused:
            sizes = (f"{one.predicted / 1e6:.1f}", f"{one.measured / 1e6:.1f}", f"{one.ratio:.3f}")
            shown.add_row(one.model, str(one.ranks), one.plan, *sizes, one.predicted_during)
    return shown


def main() -> None:
    parser = described(__doc__)
    add_names(parser, "--models", MODELS, "MODEL")
    add_names(parser, "--plans", PLANS, "PLAN")
    parser.add_argument("--optimizer", choices=("sgd", "momentum", "adamw"), default="adamw", help="(adamw)")
    add_small(parser)
    add_json(parser)
    options = parser.parse_args()
    found = [one for name in options.models for one in results(MODELS[name](options.small), options)]
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
        return
    console = Console()
    console.print(table(found))
    for one in found:
        if one.refused:
            console.print(f"  not run: {one.model}, {one.plan}: {one.refused}", highlight=False, markup=False)


if __name__ == "__main__":
    main()
