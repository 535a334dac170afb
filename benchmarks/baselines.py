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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

import autopar
from autopar.planning.baselines import BASELINES, NotApplicable
from benchmarks.contenders import Contender
from benchmarks.jobs import Job, JobFailed, Turns, ratio, take_turns
from benchmarks.models import MODELS, Model, batch, seeded
from benchmarks.options import add_names, add_ranks, described, timed

CHOSEN = "chosen"
TWIN = "the same program as "


@dataclass(frozen=True, slots=True)
class PlanTimes:
    """One plan: predicted seconds of a step, measured seconds of every step by round; or why there are none."""

    plan: str
    predicted: float = 0.0
    rounds: tuple[tuple[float, ...], ...] = ()
    losses: tuple[float, ...] = ()
    refused: str = ""

    @property
    def seconds(self) -> float:
        return median(second for turn in self.rounds for second in turn)


def order(rows: Sequence[PlanTimes]) -> float | None:
    """Kendall's tau between predicted and measured times; None for fewer than two plans."""
    pairs = list(itertools.combinations([row for row in rows if row.rounds], 2))
    agree = [(a.predicted - b.predicted) * (a.seconds - b.seconds) for a, b in pairs]
    return sum((sign > 0) - (sign < 0) for sign in agree) / len(agree) if agree else None


def compiled_plans(model: Model, ranks: int, options: argparse.Namespace, folder: Path) -> list[PlanTimes]:
    """Compile the free plan and every fixed one into ``folder/NAME/compiled``; one program under two names is kept once."""
    free = autopar.compile(
        seeded(model), batch(model),
        grid=str(ranks), optimizer="sgd", name=model.name, machine=options.machine, measure=options.measure,
    )  # fmt: skip
    sources: dict[str, str] = {}
    rows = []
    for name in (CHOSEN, *options.plans):
        try:
            compiled = free if name == CHOSEN else free.replan(plan=name)
        except NotApplicable as error:
            rows.append(PlanTimes(name, refused=str(error).splitlines()[0].partition("apply: ")[2]))
            continue
        twin = sources.setdefault(compiled.source, name)
        same = "" if twin == name else TWIN + twin
        rows.append(PlanTimes(name, compiled.plan.predicted.seconds, refused=same))
        if not same:
            compiled.save(folder / name / "compiled")
    return rows


def measure(model: Model, ranks: int, options: argparse.Namespace, log: Console) -> list[PlanTimes]:
    """All plans of one model on so many ranks, taking turns."""
    with tempfile.TemporaryDirectory() as place:
        rows = compiled_plans(model, ranks, options, Path(place))
        jobs: dict[str, Job] = {}
        try:
            for row in rows:
                if not row.refused:
                    contender = Contender("autopar", f"plan {row.plan}", "compiled", "mpi", processes=ranks)
                    jobs[row.plan] = Job(contender, model.name, options.small, Path(place) / row.plan)
            turns = take_turns(jobs, options.rounds, options.steps, log)
            return [timed_plan(row, turns.get(row.plan)) for row in rows]
        except JobFailed as error:
            log.print(str(error), markup=False, style="red")
            raise SystemExit(1) from error
        finally:
            for job in jobs.values():
                job.close()


def timed_plan(row: PlanTimes, turns: Turns | None) -> PlanTimes:
    """With what its job took, if it had one."""
    return row if turns is None else replace(row, rounds=turns.rounds, losses=turns.losses)


def facts(model: Model, ranks: int, rows: Sequence[PlanTimes]) -> dict[str, object]:
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


def table(model: Model, ranks: int, rows: Sequence[PlanTimes]) -> Table:
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
    return timed(parser, 7, "every plan")


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
