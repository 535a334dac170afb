"""``autopar explain build NAME``: what an operator could have done instead, and what each choice would have cost."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

NAME = "explain"


def add(commands: Any) -> None:  # noqa: ANN401
    """Add the command."""
    parser = commands.add_parser(NAME, help="compare an operator's alternatives", allow_abbrev=False)
    parser.add_argument("folder", help="what `autopar compile` wrote")
    parser.add_argument("name", help="a module path, a call's name, or a pattern over either")
    parser.add_argument("--most", type=int, default=12, help="alternatives to show per operator (12)")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Price the model again as the plan was, and print the alternatives."""
    from rich.table import Table

    from autopar.cli.show import console, milliseconds
    from autopar.folder import recompile

    compiled = recompile(Path(arguments.folder))
    explanation = compiled.explain(arguments.name)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(call[0]) | {"times": call[1], "alternatives": [
            dataclasses.asdict(one) for one in call[2]]} for call in explanation.calls], default=str))  # fmt: skip
        return 0
    for node, times, alternatives in explanation.calls:
        title = f"{node.module or compiled.plan.name}: {node.target}{f' ({times} x)' if times > 1 else ''}  {node.source}  {node.code}"
        table = Table(title=title, title_justify="left")
        for column in (f"choice over {compiled.plan.grid}", "own time", "conversions around", "change of the step"):
            table.add_column(column, justify="left" if column.startswith("choice") else "right")
        for one in alternatives[: arguments.most]:
            text = " | ".join(one.choice)
            change = "chosen" if one.chosen else f"{one.change * 1e3:+.3g} ms"
            table.add_row(
                f"[bold]{text}[/bold]" if one.chosen else text, milliseconds(one.compute), milliseconds(one.conversions), change
            )
        if len(alternatives) > arguments.most:
            table.add_row(f"... {len(alternatives) - arguments.most} more", "", "", "")
        console().print(table)
    return 0
