"""What autopar predicts for the model families of the zoo on two ranks, beside one rank, and with --measure what it is.

The table: parameters, operators, predicted milliseconds per step on one rank and on two (profile `cpu`, one thread
each), the ratio of the two, and the share of the predicted work that runs on both for lack of a rule. Measured are one
process with one thread and two ranks side by side, as in step_time.py.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

import autopar
from benchmarks.contenders import CONTENDERS
from benchmarks.jobs import ratio
from benchmarks.models import batch
from benchmarks.options import add_names, described, timed
from benchmarks.step_time import as_json, measure
from benchmarks.step_time import table as measured_table
from benchmarks.zoo_models import FAMILIES, family

WANTED = 1.6  # times faster on two ranks than on one


@dataclass(frozen=True, slots=True)
class FamilyPrediction:
    """One family's plan. Seconds are those of a predicted step; `compiling` is how long it took to find the plan."""

    name: str
    parameters: int
    operators: int
    one_rank: float
    two_ranks: float
    without_rule: float
    targets: tuple[str, ...]
    compiling: float

    @property
    def faster(self) -> float:
        return self.one_rank / self.two_ranks


def predict(name: str, grid: str, small: bool) -> FamilyPrediction:
    """Compile a family for the grid and read the plan."""
    model = family(name, small)
    start = time.perf_counter()
    plan = autopar.compile(model.module, batch(model), grid=grid, name=name).plan
    seconds = {node.name: node.seconds for node in plan.nodes}
    bare = [node for node in plan.nodes if not node.ruled]
    return FamilyPrediction(
        name=name,
        parameters=sum(_numel(parameter.shape) for parameter in plan.parameters if parameter.kind == "parameter"),
        operators=len(plan.nodes),
        one_rank=plan.single,
        two_ranks=plan.predicted.seconds,
        without_rule=sum(seconds[node.name] for node in bare) / sum(seconds.values()),
        targets=tuple(sorted({node.target for node in bare})),
        compiling=time.perf_counter() - start,
    )


def _numel(shape: Sequence[int]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def table(rows: Sequence[FamilyPrediction], grid: str) -> Table:
    shown = Table("family", title=f"predicted on grid {grid}", title_justify="left")
    for heading in (
        "parameters",
        "operators",
        "one rank, ms",
        "all ranks, ms",
        "speed-up",
        "without rule",
        "compiled in",
    ):
        shown.add_column(heading, justify="right")
    for row in rows:
        shown.add_row(
            row.name,
            f"{row.parameters / 1e6:.2f}M",
            str(row.operators),
            f"{row.one_rank * 1e3:.1f}",
            f"{row.two_ranks * 1e3:.1f}",
            f"{row.faster:.2f}",
            f"{row.without_rule:.2%}",
            f"{row.compiling:.1f} s",
        )
    return shown


def arguments() -> argparse.Namespace:
    parser = described(__doc__)
    names = sorted(FAMILIES)
    add_names(parser, "--predict", names, least=0)
    parser.add_argument(
        "--measure", nargs="+", choices=names, default=[], metavar="NAME", help="time the steps of these"
    )
    parser.add_argument("--grid", default="2", help="of the predictions (2)")
    return timed(parser, 7, "one process and of two ranks")


def main() -> None:
    options = arguments()
    log = Console(stderr=options.json)
    rows = [predict(name, options.grid, options.small) for name in options.predict]
    if rows and not options.json:
        log.print(table(rows, options.grid))
        slow = [row.name for row in rows if row.faster < WANTED]
        log.print(f"below {WANTED}: {', '.join(slow) or 'none'}", highlight=False)
    measured = []
    for name in options.measure:
        model = family(name, options.small)
        results = measure(model, [CONTENDERS["single1"], CONTENDERS["autopar"]], options, log)
        measured.append(as_json(model, results))
        if not options.json:
            log.print(measured_table(model, results))
            if all(result.rounds for result in results):
                log.print(f"  two ranks are {ratio(*results):.2f} times faster than one thread", highlight=False)
    if options.json:
        predicted = [asdict(row) | {"faster": row.faster} for row in rows]
        print(json.dumps({"load": os.getloadavg()[0], "predicted": predicted, "measured": measured}, indent=1))


if __name__ == "__main__":
    main()
