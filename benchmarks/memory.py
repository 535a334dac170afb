"""Predicted and measured peak of memory per rank, for every model under several plans, on two ranks and on one.

The prediction is the plan's; what is measured are the bytes of tensors that a rank holds through its third training step
(`autopar.runtime.profiling.memory_use`), the most of any rank. Plans that say nothing about a model (a batch of one cannot be
split) are left out, and named.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import autopar
from autopar.errors import ConfigError
from autopar.jobs.launch import command
from benchmarks.jobs import answer_of
from benchmarks.models import MODELS, Model, batch, seeded
from benchmarks.options import add_json, add_names, add_small, described

WORKER = "benchmarks.workers.memory"
PLANS = ("auto", "data", "model", "domain")
PATIENCE = 300.0  # seconds for a job


@dataclass(frozen=True, slots=True)
class PeakMemory:
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


def results(model: Model, options: argparse.Namespace) -> Iterator[PeakMemory]:
    """The plans of a model on two ranks, then one rank alone."""
    for ranks, plan in [*((2, name) for name in options.plans), (1, "auto")]:
        try:
            yield measure(model, ranks, plan, options)
        except ConfigError as error:
            yield PeakMemory(model.name, ranks, plan, refused=str(error).splitlines()[0])


def measure(model: Model, ranks: int, plan: str, options: argparse.Namespace) -> PeakMemory:
    """Compile and run. Raises ConfigError where the plan does not apply."""
    compiled = autopar.compile(
        seeded(model), batch(model), grid=str(ranks), plan=plan, optimizer=options.optimizer, name=model.name
    )
    with tempfile.TemporaryDirectory() as place:
        folder = compiled.save(Path(place) / "compiled")
        words = [model.name, "small" if options.small else "full", options.optimizer, str(folder)]
        held = answer_of(
            command(WORKER, ranks, words), f"{model.name}, {plan} plan on {ranks} ranks,", PATIENCE, threads=1
        )
    most = max(held, key=lambda rank: int(rank["peak"]))
    predicted = compiled.plan.predicted
    return PeakMemory(
        model.name, ranks, plan, predicted.bytes, int(most["peak"]), predicted.peak_during, str(most["during"])
    )


def table(results: list[PeakMemory]) -> Table:
    shown = Table("model", "ranks", "plan", title="peak of memory per rank, MB", title_justify="left")
    for heading in ("predicted", "measured", "ratio"):
        shown.add_column(heading, justify="right")
    shown.add_column("predicted to be in")
    for result in results:
        if not result.refused:
            sizes = (f"{result.predicted / 1e6:.1f}", f"{result.measured / 1e6:.1f}", f"{result.ratio:.3f}")
            shown.add_row(result.model, str(result.ranks), result.plan, *sizes, result.predicted_during)
    return shown


def main() -> None:
    parser = described(__doc__)
    add_names(parser, "--models", MODELS, "MODEL")
    add_names(parser, "--plans", PLANS, "PLAN")
    parser.add_argument("--optimizer", choices=("sgd", "momentum", "adamw"), default="adamw", help="(adamw)")
    add_small(parser)
    add_json(parser)
    options = parser.parse_args()
    measured = [result for name in options.models for result in results(MODELS[name](options.small), options)]
    if options.json:
        print(json.dumps([asdict(result) for result in measured], indent=1))
        return
    console = Console()
    console.print(table(measured))
    for result in measured:
        if result.refused:
            console.print(f"  not run: {result.model}, {result.plan}: {result.refused}", highlight=False, markup=False)


if __name__ == "__main__":
    main()
