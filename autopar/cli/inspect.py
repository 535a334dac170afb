"""``autopar inspect build``: what was chosen, at what predicted cost, as the model's own source with notes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from autopar.cli.show import communication, console, fallback_table, milliseconds, moved, shown, size, splits
from autopar.grid import GridShape
from autopar.plan import NodePlan, Plan, load_plan, to_json

if TYPE_CHECKING:
    from rich.table import Table

NAME = "inspect"


def add(commands: Any) -> None:  # noqa: ANN401
    """Add the command."""
    parser = commands.add_parser(NAME, help="show a plan: splits, layouts, communication, time, memory", allow_abbrev=False)
    parser.add_argument("folder", help="what `autopar compile` wrote")
    parser.add_argument("--view", choices=["source", "module", "cost", "parameters"], default="source")
    parser.add_argument("--json", action="store_true", help="the plan as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan."""
    plan = load_plan(arguments.folder)
    if arguments.json:
        print(to_json(plan), end="")
        return 0
    views = {"source": _source, "module": _module, "cost": _cost, "parameters": _parameters}
    out = console()
    out.print(views[arguments.view](plan))
    fallback = fallback_table(plan)
    if fallback is not None:
        out.print(fallback)
    out.print(_summary(plan))
    return 0


def _summary(plan: Plan) -> Table:
    from rich.table import Table

    table = Table(title="one step on one rank, predicted", show_header=False, title_justify="left")
    one = plan.predicted
    gain = plan.single / one.seconds if one.seconds else 1.0
    report = plan.solver
    table.add_row("step", f"{milliseconds(one.seconds)}, {gain:.2f}x over one rank ({milliseconds(plan.single)})")
    table.add_row(
        "of which",
        f"compute {milliseconds(one.compute)}, communication {milliseconds(one.communication)}, "
        f"gradient sums {milliseconds(one.gradients)}, update {milliseconds(one.update)}",
    )
    table.add_row(
        "memory",
        f"{size(one.bytes)}: parameters {size(one.parameters_bytes)}, gradients {size(one.gradients_bytes)}, "
        f"optimizer {size(one.optimizer_bytes)}, activations {size(one.activations_bytes)}",
    )
    table.add_row(
        "solver",
        f"{report.method}: cost {milliseconds(report.cost)}, bound {milliseconds(report.bound)}, gap {report.gap:.2%}, "
        f"{report.variables} variables, {report.strategies} strategies",
    )
    table.add_row("grid", f"{plan.grid} on machine {plan.machine}, optimizer {plan.options.optimizer}")
    return table


def _source(plan: Plan) -> Table:
    """The model's own lines in order of execution; the calls that one line makes share a row."""
    table = _table("source", "code", "split", "communication", "time", "saved")
    axes = GridShape.parse(plan.grid).names
    rows: list[tuple[str, str, list[NodePlan], int]] = []
    module = None
    for node, times in shown(plan):
        key = (node.module, node.source)
        if rows and rows[-1][0:2] == key:
            rows[-1][2].append(node)
        else:
            rows.append((*key, [node], times))
    for path, source, nodes, times in rows:
        if path != module:
            table.add_row(f"[bold]{path or plan.name}[/bold]{f'  ({times} x)' if times > 1 else ''}")
            module = path
        heaviest = max(nodes, key=_seconds)
        exchanged = [text for node in nodes for text in communication(plan, node)]
        table.add_row(
            f"  {source}",
            heaviest.code.strip()[:70],
            splits(heaviest, axes),
            "\n".join(exchanged),
            milliseconds(sum(map(_seconds, nodes))),
            size(sum(node.saved_bytes for node in nodes)),
        )
    _add_rest(plan, table)
    return table


def _module(plan: Plan) -> Table:
    """Every call with its letters and layouts."""
    table = _table("module", "operator", "letters", "split", "layouts in", "layout out", "communication", "time", "saved")
    axes = GridShape.parse(plan.grid).names
    for node, times in shown(plan):
        table.add_row(
            f"{node.module}{f' ({times} x)' if times > 1 else ''}",
            f"{node.name} = {node.target.removeprefix('aten.')}",
            node.letters,
            splits(node, axes),
            "\n".join(" | ".join(column) for column in zip(*(one.operands for one in node.choices), strict=True)),
            " | ".join(one.results[0] for one in node.choices),
            "\n".join(communication(plan, node)),
            milliseconds(_seconds(node)),
            size(node.saved_bytes),
        )
    _add_rest(plan, table)
    return table


def _cost(plan: Plan) -> Table:
    """Calls and conversions, dearest first."""
    table = _table("what", "where", "split or moved", "times", "time")
    axes = GridShape.parse(plan.grid).names
    rows = [
        (times * (_seconds(node) + _inside(node)), node.target, node.module, splits(node, axes), times)
        for node, times in shown(plan)
    ]
    rows += [
        (one.times * (one.seconds_forward + one.seconds_adjoint), one.primitive, one.module, moved(one), one.times)
        for one in plan.conversions
    ]
    rows += [(plan.predicted.gradients, "gradient sums", "", "", 1), (plan.predicted.update, "update", "", "", 1)]
    for seconds, what, where, how, times in sorted(rows, key=lambda row: -row[0]):
        table.add_row(what, where, how, str(times), milliseconds(seconds))
    return table


def _parameters(plan: Plan) -> Table:
    """Inputs, parameters and buffers with the layouts they are stored in."""
    table = _table("name", "kind", "shape", "layout over the axes")
    for one in (*plan.inputs, *plan.parameters):
        table.add_row(one.name, one.kind, "x".join(map(str, one.shape)), " | ".join(one.layouts))
    return table


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in ("time", "saved", "times") else "left", overflow="fold")
    return table


def _add_rest(plan: Plan, table: Table) -> None:
    """Conversions that no call asked for: of a loop's entries, and of the loss."""
    for one in plan.conversions:
        if not one.consumers:
            table.add_row(f"  {one.module or 'loss'}", *[""] * (len(table.columns) - 4), moved(one))


def _seconds(node: NodePlan) -> float:
    return node.seconds_forward + node.seconds_backward


def _inside(node: NodePlan) -> float:
    return sum(one.seconds_forward + one.seconds_adjoint for one in node.inner)
