"""``autopar inspect build``: what was chosen, at what predicted cost.

    source      the model's own lines with what they do: split, communication, time, saved bytes (the default)
    module      every operator call with its letters and the layouts of operands and result
    cost        calls and conversions, dearest first
    parameters  inputs, parameters and buffers with the layouts that they are stored in
    segments    of a graph that is divided: segments, edges, positions, the step in time

With ``--json`` the plan as it stands in plan.json, whose keys are the fields of `autopar.ir.plan.Plan`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from autopar.analysis import split_summary
from autopar.artifact import CompiledFolder, load
from autopar.cli import annotated_source, placement_output, rank_output
from autopar.cli.tables import (
    LAYOUTS,
    LETTERS,
    TIMES,
    Heading,
    amounts,
    cut,
    joined,
    layouts,
    milliseconds,
    note,
    short,
    show,
    show_fallbacks,
    shown,
    splits,
    table,
)
from autopar.errors import ConfigError, refusal
from autopar.ir.batch_sizes import MicrobatchPlan
from autopar.ir.grid import GridShape
from autopar.ir.plan import ConversionPlan, NodePlan, Plan, SolverReport
from autopar.ir.plan_file import to_json
from autopar.ir.units import bytes_text

if TYPE_CHECKING:
    from rich.table import Table

NAME = "inspect"
TEXT = "show a plan: splits, communication, time, memory"
VIEWS = ("source", "module", "cost", "parameters", "segments")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("folder", help="what `autopar compile` wrote")
    views = (
        "source: the model's lines; module: every operator; cost: dearest first; parameters: layouts; "
        "segments: of a graph that is divided over a place axis (source)"
    )
    parser.add_argument("--view", choices=VIEWS, default="source", help=views)
    parser.add_argument("--json", action="store_true", help="the whole plan as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the plan."""
    saved = load(arguments.folder)
    plan = saved.plan
    if arguments.json:
        print(to_json(plan), end="")
        return 0
    if arguments.view == "source":
        show(annotated_source.lines(plan), cut="code", least=28)
        show(annotated_source.letters(plan))
        note(TIMES, LETTERS)
    elif arguments.view == "module":
        show(_module(plan), cut="operator")
        show(annotated_source.letters(plan, every=True))
        note(TIMES, LETTERS, LAYOUTS)
    elif arguments.view == "cost":
        show(_cost(plan), cut="where")
    elif arguments.view == "parameters":
        show(_parameters(plan), cut="name")
    if arguments.view == "segments":
        _segments(plan, arguments.folder)
    elif plan.placement is not None:
        placement_output.show_segments(plan, plan.placement)
    if plan.ranks:
        rank_output.show_ranks(plan)
    show_fallbacks(plan)
    show(_summary(saved), title=f"{plan.name}, one step on one rank, predicted")
    return 0


def _segments(plan: Plan, folder: str) -> None:
    """All about the place axis. Raises ConfigError for a plan without one."""
    if plan.placement is None:
        fault, rule = f"grid {plan.grid} has no place axis", "the graph is divided over the positions of a place axis"
        fix = "compile for a grid with one, as --grid stage:2x2"
        raise ConfigError(refusal(f"inspect {folder} --view segments", fault, rule, fix=fix))
    placement_output.show_segments(plan, plan.placement)
    placement_output.show_positions(plan.placement)


def _tied(report: SolverReport) -> str:
    """What it costs that repeated blocks share one choice, where that was computed."""
    return "" if report.tied_loss is None else f", at most {report.tied_loss:.2%} for blocks that share one choice"


def _sums(report: SolverReport) -> str:
    """That gradient sums were priced as waited for, where they were."""
    share = f"{report.unhidden:.0%} of what could hide of gradient sums"
    return f"; the cost counts {share}" if report.unhidden else ""


def _summary(saved: CompiledFolder) -> Table:
    plan = saved.plan
    costs, report = plan.predicted, plan.solver
    gain = plan.single / costs.seconds if costs.seconds else 1.0
    rows = {
        "split": split_summary.sentence(plan),
        "step": f"{milliseconds(costs.seconds)}, {gain:.2f}x over one rank ({milliseconds(plan.single)})",
        "time": f"compute {milliseconds(costs.compute)}, communication {milliseconds(costs.communication)}, "
        f"gradient sums {milliseconds(costs.gradients)}, update {milliseconds(costs.update)}"
        + _idle(plan)
        + (f", stalls {milliseconds(costs.stalls)}" if costs.stalls else ""),
        "memory": f"{bytes_text(costs.bytes)} per rank at its peak, {costs.peak_during}: "
        f"parameters {bytes_text(costs.parameters_bytes)}, gradients {bytes_text(costs.gradients_bytes)}, "
        f"optimizer {bytes_text(costs.optimizer_bytes)}, activations "
        f"{bytes_text(costs.activations_bytes)}, inputs {bytes_text(costs.inputs_bytes)}, "
        f"buffers and transients {bytes_text(costs.buffers_bytes + costs.transients_bytes)}",
        "solver": f"{report.method}: cost {milliseconds(report.cost)}, bound {milliseconds(report.bound)}, gap {report.gap:.2%}, "
        f"{report.variables} variables, {report.strategies} strategies" + _tied(report) + _sums(report),
        "for": f"grid {plan.grid}, machine {plan.machine.name}, optimizer {plan.options.optimizer}"
        + (f", memory limit {bytes_text(plan.options.memory)}" if plan.options.memory else "")
        + (f", plan {plan.options.plan}" if plan.options.plan != "auto" else "")
        + (f", pins {'; '.join(plan.options.pins)}" if plan.options.pins else "")
        + (f", bans {'; '.join(plan.options.bans)}" if plan.options.bans else ""),
    }
    if plan.cuts:
        rows["cuts"] = split_summary.cuts_sentence(plan)
    if plan.placement is not None:
        rows["division"] = placement_output.sentence(plan.placement)
        rows["beside"] = placement_output.beside(plan.placement)
    twice = [prefix for (prefix, _), again in zip(plan.repeats, plan.recomputed, strict=True) if again]
    if twice:
        rows["recompute"] = f"{', '.join(twice)}: backward keeps what goes into a block, and computes the block again"
    if plan.batch.division is not None:
        rows["micro-batches"] = _division(plan.batch.division, GridShape.parse(plan.grid))
    if plan.batch.fixed or plan.batch.sizes.why:
        rows["batch"] = _batch(plan)
    if plan.evaluation:
        rows["evaluation"] = f"not by this program: {plan.evaluation}"
    if plan.training:
        rows["training"] = f"as the model was compiled, and not otherwise: {plan.training}"
    if saved.edited:
        rows["edited"] = "program.py was edited by hand: it need not do what this plan says"
    listing = table("", "")
    listing.show_header = False
    for name, text in rows.items():
        listing.add_row(name, text)
    return listing


def _division(division: MicrobatchPlan, grid: GridShape) -> str:
    """Into what a batch is divided, who computes what, and why."""
    counts = ", after the counts of the whole batch" if division.counts else ""
    queue = grid.queue
    how = "one after another" if queue is None else f"which {queue.size} replicas draw from the queue {queue.name}"
    return f"{division.microbatches} of up to {division.rows} rows, {how}{counts}: {division.why}"


def _idle(plan: Plan) -> str:
    """What the position that works longest waits for others, where there are positions; or the rank that waits least."""
    if not plan.placement and not plan.ranks:
        return ""
    which = "the position that works longest" if plan.placement else "the rank that waits least"
    return f", idle {milliseconds(plan.predicted.idle)}, on {which}"


def _batch(plan: Plan) -> str:
    """Which numbers of rows the program takes, and why no others."""
    batch = plan.batch
    takes = f"as compiled only, {batch.rows} rows" if batch.fixed else str(batch.sizes)
    own = f"; programs of their own for {', '.join(map(str, batch.others))} rows" if batch.others else ""
    return f"{takes}{own}: {batch.fixed or '; '.join(batch.sizes.why)}"


def _module(plan: Plan) -> Table:
    listing = table("operator", "split", "operands", "result", "time", "saved")
    axes = GridShape.parse(plan.grid).names
    module = None
    for node, times in shown(plan):
        if node.module != module:
            module = node.module
            listing.add_row(Heading(module or plan.name, f"{times} x" if times > 1 else ""))
        annotated_source.add_moved(listing, annotated_source.converted(plan, [node]))
        listing.add_row(
            cut(f"  {node.name} = {short(node.target)}"),
            splits(node, axes),
            joined(map(layouts, zip(*(choice.operands for choice in node.choices), strict=True))),
            layouts([choice.results[0] for choice in node.choices]),
            milliseconds(node.seconds),
            bytes_text(node.saved_bytes),
        )
        annotated_source.add_moved(listing, node.inner)
    annotated_source.add_moved(listing, [conversion for conversion in plan.conversions if not conversion.consumers])
    return listing


def _cost(plan: Plan) -> Table:
    listing = table("what", "where", "split", "times", "time", "share")
    listing.columns[0].max_width = 20
    axes = GridShape.parse(plan.grid).names
    rows = [
        (
            times * (node.seconds + sum(move.seconds for move in node.inner)),
            short(node.target),
            _place(node, plan),
            splits(node, axes),
            times,
        )
        for node, times in shown(plan)
    ]
    rows += [
        (
            conversion.times * conversion.seconds,
            conversion.primitive,
            _why(conversion),
            f"over {conversion.axis}",
            conversion.times,
        )
        for conversion in plan.conversions
    ]
    rows += [(plan.predicted.gradients, "gradient sums", "", "", 1), (plan.predicted.update, "update", "", "", 1)]
    total = sum(row[0] for row in rows) or 1.0
    for seconds, what, where, how, times in sorted(rows, key=lambda row: -row[0]):
        if seconds:
            listing.add_row(cut(what), cut(where), how, str(times), milliseconds(seconds), f"{seconds / total:.1%}")
    return listing


def _parameters(plan: Plan) -> Table:
    axes = ", ".join(GridShape.parse(plan.grid).names)
    listing = table("name", "kind", "dtype", "shape", f"layout over {axes}")
    for item in (*plan.inputs, *plan.parameters):
        name = item.name + "".join(f" = {alias}" for alias in item.aliases)
        shape = "x".join(map(str, item.shape)) or "scalar"
        listing.add_row(name, item.kind, item.dtype, shape, " | ".join(item.layouts))
    return listing


def _place(node: NodePlan, plan: Plan) -> str:
    return f"{node.module or plan.name}  {node.source}"


def _why(move: ConversionPlan) -> str:
    return f"{amounts(move)} for {move.consumers[0] if move.consumers else move.module or 'the loss'}".strip()
