"""How long one training step takes, side by side in one run: autopar and what a user would pick instead.

Two ranks with one thread each, beside one process with one thread and with two. All contenders are started once and
wait; they then take turns, a few steps each, round after round, so that a slow minute of a shared machine strikes all.
A contender's time is the median of its steps; a ratio is taken in every round between two contenders' medians, and the
median ratio counts. All train the same model from the same parameters on the same batch, and the losses of their
first steps are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table

from benchmarks.contenders import CONTENDERS, Contender, refusal
from benchmarks.jobs import Job, JobFailed, ratio, take_turns
from benchmarks.models import MODELS, Model
from benchmarks.options import add_names, described, timed

COMPILER = "benchmarks.workers.compile_model"
COMPARED = 3  # losses: later ones drift apart by rounding alone
BASE = "single1"
OURS = ("autopar", "hand")


@dataclass(frozen=True, slots=True)
class ContenderTimes:
    """One contender on one model: seconds of every step, by round; or why there are none."""

    contender: str
    rounds: tuple[tuple[float, ...], ...] = ()
    losses: tuple[float, ...] = ()
    refused: str = ""

    @property
    def seconds(self) -> float:
        return median(second for turn in self.rounds for second in turn)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles of the steps, as a part of the median."""
        steps = [second for turn in self.rounds for second in turn]
        low, _, high = quantiles(steps, n=4) if len(steps) > 1 else (steps[0],) * 3
        return (high - low) / 2 / self.seconds


def measure(
    model: Model, contenders: Sequence[Contender], options: argparse.Namespace, log: Console
) -> list[ContenderTimes]:
    """Start all contenders that can train the model, and let them take turns."""
    results = {c.name: ContenderTimes(c.name, refused=refusal(c, model)) for c in contenders}
    with tempfile.TemporaryDirectory() as place:
        jobs: list[Job] = []
        try:
            for contender in contenders:
                if results[contender.name].refused:
                    continue
                try:
                    jobs.append(open_job(contender, model, options.small, Path(place)))
                except JobFailed as error:
                    log.print(str(error), markup=False, style="red")
                    results[contender.name] = ContenderTimes(contender.name, refused="did not start, see above")
            turns = take_turns({job.contender.name: job for job in jobs}, options.rounds, options.steps, log)
            times = {name: ContenderTimes(name, taken.rounds, taken.losses) for name, taken in turns.items()}
            return list((results | times).values())
        finally:
            for job in jobs:
                job.close()


def open_job(contender: Contender, model: Model, small: bool, place: Path) -> Job:
    if contender.name == "autopar":
        command = [
            sys.executable,
            "-m",
            COMPILER,
            model.name,
            "small" if small else "full",
            "2",
            str(place / "compiled"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise JobFailed("autopar cannot compile it:\n" + done.stderr[-2000:])
    return Job(contender, model.name, small, place)


def same_numbers(result: ContenderTimes, results: Sequence[ContenderTimes]) -> bool | None:
    """Whether the first losses are those of one process; None where that was not measured.

    They may differ by a hundredth of what training has changed so far, and by rounding.
    """
    base = next((other for other in results if other.contender == BASE and other.rounds), None)
    if base is None or not result.rounds:
        return None
    first = base.losses[0]
    pairs = zip(result.losses[:COMPARED], base.losses[:COMPARED], strict=True)
    return all(abs(ours - theirs) <= 0.01 * abs(theirs - first) + 1e-5 * abs(theirs) for ours, theirs in pairs)


def table(model: Model, results: Sequence[ContenderTimes]) -> Table:
    shown = Table("contender", title=model.title, title_justify="left")
    for heading in ("ms/step", "+-", "of 1 thread", "speed-up", "losses"):
        shown.add_column(heading, justify="right")
    base = next((result for result in results if result.contender == BASE and result.rounds), None)
    for result in results:
        title = CONTENDERS[result.contender].title
        if not result.rounds:
            continue
        part = ratio(result, base) if base else float("nan")
        verdict = {True: "same", False: "differ", None: ""}[same_numbers(result, results)]
        shown.add_row(
            title, f"{result.seconds * 1e3:.1f}", f"{result.spread:.0%}", f"{part:.3f}", f"{1 / part:.2f}", verdict
        )
    return shown


def comparisons(results: Sequence[ContenderTimes]) -> dict[str, float]:
    """autopar's time as a multiple of others': the fastest's, one thread's, and its own plan's written by hand."""
    by_name = {result.contender: result for result in results if result.rounds}
    ours = by_name.get("autopar")
    if ours is None:
        return {}
    others = [result for name, result in by_name.items() if name not in OURS]
    ratios = {}
    if others:
        fastest = min(others, key=lambda result: result.seconds)
        ratios[f"fastest other ({CONTENDERS[fastest.contender].title})"] = ratio(ours, fastest)
    for name in (BASE, "hand"):
        if name in by_name:
            ratios[CONTENDERS[name].title] = ratio(ours, by_name[name])
    return ratios


def as_json(model: Model, results: Sequence[ContenderTimes]) -> dict[str, object]:
    return {
        "model": model.name,
        "title": model.title,
        "autopar_over": comparisons(results),
        "contenders": [
            asdict(result) | {"same_losses": same_numbers(result, results)}
            | ({"median_s": result.seconds, "spread": result.spread} if result.rounds else {})
            for result in results
        ],
    }  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = described(__doc__)
    add_names(parser, "--models", MODELS, "MODEL")
    add_names(parser, "--contenders", CONTENDERS)
    return timed(parser, 7, "every contender")


def main() -> None:
    options = arguments()
    log = Console(stderr=options.json)
    records = []
    for name in options.models:
        model = MODELS[name](options.small)
        results = measure(model, [CONTENDERS[name] for name in options.contenders], options, log)
        records.append(as_json(model, results))
        if not options.json:
            log.print(table(model, results))
            for result in results:
                if result.refused:
                    log.print(f"  not run: {CONTENDERS[result.contender].title}: {result.refused}", highlight=False)
            for other, part in comparisons(results).items():
                log.print(f"  autopar takes {part:.3f} of the time of: {other}", highlight=False)
    load = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"load": load, "rounds": options.rounds, "steps": options.steps, "models": records}, indent=1))
    else:
        log.print(
            f"load of the machine in the last minute: {load:.1f} (this benchmark alone: up to 2)", highlight=False
        )


if __name__ == "__main__":
    main()
