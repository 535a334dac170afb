"""Whether the chosen plan is the fastest: measured beside every fixed plan that the model has, side by side in one run.

Every plan is compiled from one capture, started once, and waits; all then take turns, a few steps each, round after round.
A ratio is taken in every round between two plans' medians, and the median ratio counts. On two ranks each has a core of its own.
Four ranks share two cores: their times say nothing by themselves, but the order of the plans can be compared with the predicted
one (Kendall's tau: 1 for the same order, -1 for the reverse).
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import track
from rich.table import Table

import autopar
from autopar.planning.baselines import BASELINES, NotApplicable
from benchmarks.contenders import Contender
from benchmarks.jobs import Job, JobFailed
from benchmarks.models import MODELS, Model, batch, seeded
from benchmarks.options import add_json, add_names, add_ranks, add_small, add_turns, described

SETTLE = 1  # steps before the clock counts, in every turn
CHOSEN = "chosen"
TWIN = "the same program as "


@dataclass(frozen=True, slots=True)
class Measured:
    """One plan: predicted seconds of a step, measured seconds of every step by round; or why there are none."""

    plan: str
    predicted: float = 0.0
    rounds: tuple[tuple[float, ...], ...] = ()
    losses: tuple[float, ...] = ()
    refused: str = ""

    @property
    def seconds(self) -> float:
        return median(second for turn in self.rounds for second in turn)


def ratio(one: Measured, other: Measured) -> float:
    """The first's time as a multiple of the second's, taken round by round."""
    return median(median(a) / median(b) for a, b in zip(one.rounds, other.rounds, strict=True))


def order(rows: Sequence[Measured]) -> float | None:
    """Kendall's tau between predicted and measured times; None for fewer than two plans."""
    pairs = list(itertools.combinations([row for row in rows if row.rounds], 2))
    agree = [(a.predicted - b.predicted) * (a.seconds - b.seconds) for a, b in pairs]
    return sum((one > 0) - (one < 0) for one in agree) / len(agree) if agree else None


def compiled_plans(model: Model, ranks: int, options: argparse.Namespace, folder: Path) -> list[Measured]:
    """Compile the free plan and every fixed one into ``folder/NAME/compiled``; one program under two names is kept once."""
    free = autopar.compile(
        seeded(model), batch(model),
        grid=str(ranks), optimizer="sgd", name=model.name, machine=options.machine, measure=options.measure,
    )  # fmt: skip
    sources: dict[str, str] = {}
    found = []
    for name in (CHOSEN, *options.plans):
        try:
            one = free if name == CHOSEN else free.replan(plan=name)
        except NotApplicable as error:
            found.append(Measured(name, refused=str(error).splitlines()[0].partition("apply: ")[2]))
            continue
        twin = sources.setdefault(one.source, name)
        same = "" if twin == name else TWIN + twin
        found.append(Measured(name, one.plan.predicted.seconds, refused=same))
        if not same:
            one.save(folder / name / "compiled")
    return found


def measure(model: Model, ranks: int, options: argparse.Namespace, log: Console) -> list[Measured]:
    """All plans of one model on so many ranks, taking turns."""
    with tempfile.TemporaryDirectory() as place:
        rows = compiled_plans(model, ranks, options, Path(place))
        jobs: dict[str, Job] = {}
        try:
            for row in rows:
                if not row.refused:
                    contender = Contender("autopar", f"plan {row.plan}", "compiled", "mpi", processes=ranks)
                    jobs[row.plan] = Job(contender, model.name, options.small, Path(place) / row.plan)
            return take_turns(rows, jobs, options, log)
        except JobFailed as error:
            log.print(str(error), markup=False, style="red")
            raise SystemExit(1) from error
        finally:
            for job in jobs.values():
                job.close()


def take_turns(
    rows: Sequence[Measured], jobs: Mapping[str, Job], options: argparse.Namespace, log: Console
) -> list[Measured]:
    rounds: dict[str, list[tuple[float, ...]]] = {name: [] for name in jobs}
    losses: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in track(range(options.rounds), "rounds", console=log, transient=True):
        for name, job in jobs.items():
            block = job.steps(SETTLE + options.steps)
            rounds[name].append(block.seconds[SETTLE:])
            losses[name] += block.losses
    return [
        Measured(row.plan, row.predicted, tuple(rounds[row.plan]), tuple(losses[row.plan])) if row.plan in jobs else row
        for row in rows
    ]


def facts(model: Model, ranks: int, rows: Sequence[Measured]) -> dict[str, object]:
    """What one model on so many ranks comes to."""
    chosen, twin = rows[0], next((row for row in rows if row.refused == TWIN + CHOSEN), None)
    rivals = [row for row in rows if row.rounds and (row is not chosen or twin)]
    fastest = min(rivals, key=lambda row: row.seconds, default=None)
    name = "" if fastest is None else twin.plan if twin and fastest is chosen else fastest.plan
    return {
        "model": model.name,
        "title": model.title,
        "ranks": ranks,
        "fastest_baseline": name,
        "chosen_over_fastest": ratio(chosen, fastest) if fastest else None,
        "order": order(rows),
        "plans": [
            asdict(row) | ({"median_s": row.seconds, "chosen_over": ratio(chosen, row)} if row.rounds else {})
            for row in rows
        ],
    }


def table(model: Model, ranks: int, rows: Sequence[Measured]) -> Table:
    shown = Table(title=f"{model.title}, {ranks} ranks")
    for name in ("plan", "measured ms", "predicted ms", "chosen / it"):
        shown.add_column(name, justify="left" if name == "plan" else "right")
    for row in rows:
        if row.rounds:
            numbers = f"{row.seconds * 1e3:.1f}", f"{row.predicted * 1e3:.1f}", f"{ratio(rows[0], row):.3f}"
            shown.add_row(row.plan, *numbers)
    return shown


def arguments() -> argparse.Namespace:
    parser = described(__doc__)
    add_names(parser, "--models", MODELS, "MODEL")
    add_ranks(parser, (2, 4))
    add_names(parser, "--plans", BASELINES, "PLAN")
    parser.add_argument("--machine", default="cpu", help="the profile to plan with (cpu)")
    parser.add_argument("--measure", action="store_true", help="time calls first, as `compile --measure` does")
    add_turns(parser, 7, "every plan")
    add_small(parser)
    add_json(parser)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    log = Console(stderr=options.json)
    records = []
    for name, ranks in itertools.product(options.models, options.ranks):
        model = MODELS[name](options.small)
        rows = measure(model, ranks, options, log)
        records.append(facts(model, ranks, rows))
        if not options.json:
            log.print(table(model, ranks, rows))
            for row in rows:
                if row.refused:
                    log.print(f"  no {row.plan}: {row.refused}", highlight=False)
            rival, part, tau = (records[-1][key] for key in ("fastest_baseline", "chosen_over_fastest", "order"))
            if part is not None:
                log.print(f"  chosen takes {part:.3f} of the time of the fastest fixed plan, {rival}", highlight=False)
            if tau is not None:
                log.print(f"  order of the plans, predicted against measured: {tau:.2f}", highlight=False)
    if options.json:
        print(json.dumps({"rounds": options.rounds, "steps": options.steps, "records": records}, indent=1))


if __name__ == "__main__":
    main()
