"""``autopar compile model.py --grid 4x2 -o build``: from a model file to a folder with program and plan."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

NAME = "compile"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how to plan; `explain` takes them from the plan instead."""
    parser.add_argument("--grid", required=True, help="sizes or named axes: 4x2, data=4,model=2")
    parser.add_argument("--machine", default="cpu", help="a shipped profile (cpu, h100, ...) or a TOML file")
    parser.add_argument("--memory", help="limit per rank, as in 16GiB; the machine's without it")
    parser.add_argument("--solver", default="auto", choices=["auto", "ilp", "search", "exhaustive"])
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds for the solver")
    parser.add_argument("--pin", action="append", default=[], metavar="'PATTERN: LETTER@AXIS'", help="fix a choice; repeatable")
    parser.add_argument("--optimizer", default="adamw", choices=["sgd", "momentum", "adamw"], help="whose state memory counts")
    parser.add_argument("--loss", help="the output to train on, where it is not a scalar or called loss")


def add(commands: Any) -> None:  # noqa: ANN401 (argparse's type for this is private)
    """Add the command."""
    parser = commands.add_parser(NAME, help="compile a model file for a grid", allow_abbrev=False)
    parser.add_argument("model", help="model.py, or model.py:NAME for another attribute than `model`")
    add_options(parser)
    parser.add_argument("-o", "--output", default="build", help="folder to write (build)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of progress")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compile and save; prints a line per stage."""
    from autopar.cli.show import console
    from autopar.compiler import compile
    from autopar.model_file import load
    from autopar.plan import ModelSource

    file = load(arguments.model)
    stages: dict[str, float] = {}

    def progress(stage: str, text: str, seconds: float) -> None:
        stages[stage] = seconds
        if not arguments.json:
            console().print(f"{stage:<10} {text:<52} {seconds:6.1f} s", highlight=False)

    compiled = compile(
        file.model,
        file.example_inputs,
        grid=arguments.grid,
        machine=arguments.machine,
        memory=arguments.memory,
        solver=arguments.solver,
        pin=arguments.pin,
        optimizer=arguments.optimizer,
        loss=arguments.loss,
        name=file.name,
        source=ModelSource(str(file.path), file.sha256, file.attribute),
        time_limit=arguments.time_limit,
        progress=progress,
    )
    folder = compiled.save(Path(arguments.output))
    plan = compiled.plan
    if arguments.json:
        facts = {
            "folder": str(folder), "seconds": stages, "predicted_seconds": plan.predicted.seconds,
            "single_seconds": plan.single, "bytes": plan.predicted.bytes, "gap": plan.solver.gap,
        }  # fmt: skip
        print(json.dumps(facts))
        return 0
    _report(plan, folder)
    return 0


def _report(plan: Any, folder: Path) -> None:  # noqa: ANN401
    from autopar.cli.show import console, fallback_table, milliseconds, size

    out = console()
    predicted = plan.predicted
    gain = plan.single / predicted.seconds if predicted.seconds else 1.0
    out.print(f"wrote      {folder / 'program.py'}  {folder / 'plan.json'}", highlight=False)
    out.print(
        f"predicted  {milliseconds(predicted.seconds)} per step, {gain:.1f}x over 1 rank, {size(predicted.bytes)} per rank"
        f"   next: autopar run {folder}",
        highlight=False,
    )
    table = fallback_table(plan)
    if table is not None:
        out.print(table)
