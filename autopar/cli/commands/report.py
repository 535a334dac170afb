"""``autopar report build``: what was predicted beside what a profiled run has measured, worst offenders first.

    totals      one step by cause: predicted, measured on the slowest rank, from rank to rank, and their ratio
    calls       operator calls; repeated blocks together, with their number
    primitives  conversions and the exchanges inside calls: what the rank spent that came last
    others      what the program does that the plan does not know

Of a divided program: what each position does in a step, in numbers and drawn in time.

With ``--json`` all of it as JSON: the fields of `autopar.analysis.plan_vs_profile.Comparison`. With ``--trace FILE`` a Chrome
trace.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from autopar.analysis import chrome_trace, placement_timeline, plan_vs_profile
from autopar.analysis.measured_actions import action_rows, measured_events, moved_segments
from autopar.analysis.plan_vs_profile import Comparison, ProfileRow
from autopar.artifact import PLAN, CompiledFolder, load
from autopar.cli import placement_output
from autopar.cli.option_types import count
from autopar.cli.tables import cut, milliseconds, note, show, splits, table
from autopar.costmodel.rank_views import rounds
from autopar.costmodel.timeline import Event
from autopar.files import check_file
from autopar.ir import profile
from autopar.ir.grid import GridShape
from autopar.ir.pipeline import measured_step
from autopar.ir.pipeline.placement_plan import PlacementPlan
from autopar.ir.units import bytes_text

if TYPE_CHECKING:
    from rich.table import Table

NAME = "report"
TEXT = "set a plan's predictions beside what `autopar run --profile` has measured"
_TOP = 15
_NOTES = (
    "times: of one step, 4 x together; measured: median of the profiled steps, slowest rank; of primitives the rank that came last",
    "ratio: measured / predicted; off: measured - predicted",
)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("folder", help="what `autopar compile` wrote and `autopar run --profile` has run")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    traced = "write a Chrome trace of the predicted step and of every rank's (opens in Perfetto)"
    parser.add_argument("--trace", metavar="FILE", help=traced)
    parser.add_argument("--top", type=count(0), default=_TOP, metavar="N", help=f"rows per table, 0 for all ({_TOP})")


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    if arguments.trace:
        check_file("--trace", Path(arguments.trace), chrome_trace.RULE)
    saved = load(arguments.folder)
    grid = GridShape.parse(saved.plan.grid)
    if saved.plan.placement is not None:
        return _divided(arguments, saved, saved.plan.placement)
    text = (saved.folder / PLAN).read_text(encoding="utf-8")
    measured = profile.load_profile(saved.folder, saved.source, text, grid.size)
    cuts = {node.name: splits(node, grid.names) for node in saved.plan.nodes}
    compared = plan_vs_profile.compare(saved.plan, measured, cuts)
    if arguments.trace:
        _trace(Path(arguments.trace), saved, measured)
    if arguments.json:
        print(_json(saved, measured, compared), end="")
        return 0
    show(_totals(compared.totals), title=f"{saved.plan.name} on grid {grid}, one step")
    show(_memory(saved, measured))
    for name, rows in (("call", compared.calls), ("primitive", compared.primitives)):
        if rows:
            show(
                _rows(name, rows[: arguments.top or None]),
                cut="code",
                least=16,
                title=_title(name, rows, arguments.top),
            )
    if compared.others:
        show(_others(compared.others[: arguments.top or None]), cut="code", title="in the program, not in the plan")
    note(*_said(saved, measured, compared), *_NOTES)
    if arguments.trace:
        note(f"trace: {arguments.trace}; open it at https://ui.perfetto.dev or in chrome://tracing")
    return 0


def _divided(arguments: argparse.Namespace, saved: CompiledFolder, placement: PlacementPlan) -> int:
    """The report on a divided program: positions and their steps in time, predicted and measured."""
    step = measured_step.load_step(saved.folder, saved.source, placement.positions)
    if arguments.json:
        whole = placement_output.step_facts(saved.plan, placement) | {
            "measured": msgspec.to_builtins(step),
            "beside": msgspec.to_builtins(action_rows(placement, step)),
        }
        print(msgspec.json.format(msgspec.json.encode(whole), indent=1).decode())
    else:
        placement_output.show_measured(placement, step)
        note(*(f"before this step, moved {move}" for move in step.moves), *moved_segments(placement, step))
    if arguments.trace:
        ranks = [(f"rank {rank.rank}, measured", measured_events(placement, rank)) for rank in step.ranks]
        ranks = _with_moves(ranks, step.moves)
        chrome_trace.write(Path(arguments.trace), [*ranks, *placement_timeline.all_events(placement)])
    return 0


def _trace(file: Path, saved: CompiledFolder, measures: profile.Profile) -> None:
    from autopar.costmodel import step_schedule

    lanes = [plan_vs_profile.events(saved.plan, measures, rank) for rank in measures.ranks]
    ranks = [(f"rank {rank.rank}, measured", lane) for rank, lane in zip(measures.ranks, lanes, strict=True)]
    ranks = _with_moves(ranks, measures.moves)
    chrome_trace.write(file, [*ranks, ("predicted", step_schedule.events(saved.plan))])


def _with_moves(
    ranks: list[tuple[str, tuple[Event, ...]]], moves: Sequence[str]
) -> list[tuple[str, tuple[Event, ...]]]:
    """The first rank with a lane more, of what was moved before the step."""
    name, events = ranks[0]
    return [(name, (*events, *(Event(move, "move", "balance", 0.0, 0.0) for move in moves))), *ranks[1:]]


def _json(saved: CompiledFolder, measures: profile.Profile, compared: Comparison) -> str:
    profiled, plain = plan_vs_profile.overhead(measures)
    whole = {
        "name": saved.plan.name,
        "grid": saved.plan.grid,
        "edited": saved.edited,
        "profiled_step": profiled,
        "plain_step": plain,
        "memory": {"predicted": saved.plan.predicted.bytes, "measured": [rank.peak for rank in measures.ranks]},
        **msgspec.to_builtins(compared),
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=1).decode() + "\n"


def _title(name: str, rows: Sequence[ProfileRow], top: int) -> str:
    left = len(rows) - top if top else 0
    return f"{name}s, worst prediction first" + (f" ({left} more: --top 0)" if left > 0 else "")


def _totals(rows: Sequence[ProfileRow]) -> Table:
    listing = table("", "predicted time", "measured time", "least time", "ratio", "off", numbers=1)
    for row in rows:
        listing.add_row(row.name, _or_dash(row.predicted), *_measured(row))
    return listing


def _measured(row: ProfileRow) -> tuple[str, str, str, str]:
    return milliseconds(row.slowest), milliseconds(row.least), _ratio(row.slowest, row.predicted), _off(row)


def _memory(saved: CompiledFolder, measures: profile.Profile) -> Table:
    costs = saved.plan.predicted
    peaks = [rank.peak for rank in measures.ranks if rank.peak]
    listing = table("memory per rank", "predicted", "measured", "least", "ratio", numbers=1)
    parts = [field.name for field in fields(costs) if field.name.endswith("_bytes")]
    for name in parts:
        listing.add_row(name.removesuffix("_bytes"), bytes_text(getattr(costs, name)), "", "", "")
    if peaks:
        listing.add_row(
            "peak", *map(bytes_text, (costs.bytes, max(peaks), min(peaks))), _ratio(max(peaks), costs.bytes)
        )
    else:
        listing.add_row("peak", bytes_text(costs.bytes), "-", "-", "-")
    return listing


def _rows(name: str, rows: Sequence[ProfileRow]) -> Table:
    sends = name == "primitive"
    listing = table(name, "where", "code", "split" if not sends else "sent", "times", "predicted time", "measured time")
    for title in ("ratio", "off"):
        listing.add_column(title, justify="right")
    for row in rows:
        place = "  ".join(part for part in (row.module, row.source) if part)
        third = f"{bytes_text(row.sent[0])} / {bytes_text(row.sent[1])}" if sends else row.split
        listing.add_row(
            cut(row.name),
            cut(place),
            cut(row.code),
            third,
            f"{row.times} x" if row.times > 1 else "",
            _or_dash(row.predicted),
            milliseconds(row.shown),
            _ratio(row.shown, row.predicted),
            _off(row),
        )
    return listing


def _others(rows: Sequence[ProfileRow]) -> Table:
    listing = table("where", "code", "measured time")
    for row in rows:
        listing.add_row(row.name, cut(row.code), milliseconds(row.slowest))
    return listing


def _said(saved: CompiledFolder, measures: profile.Profile, compared: Comparison) -> list[str]:
    """What is worth a sentence."""
    profiled, plain = plan_vs_profile.overhead(measures)
    grid, said = GridShape.parse(saved.plan.grid), []
    if plain:
        more = f"{profiled / plain - 1:+.1%}"
        said.append(f"profiled steps take {milliseconds(profiled)}, others {milliseconds(plain)}: {more}")
    hosts = {rank.host for rank in measures.ranks}
    count = f"{len(measures.ranks)} ranks on {len(hosts)} host{'s' if len(hosts) > 1 else ''}"
    said.append(f"measured on {count}, {len(measures.ranks[0].steps)} profiled steps")
    if grid.queue and saved.plan.batch.division:
        drawn = saved.plan.batch.division.microbatches
        share = rounds(saved.plan.machine, grid, drawn)
        said.append(f"predicted for {share} of {drawn} micro-batches a replica; measured, for those that it drew")
    said += [f"before these steps, moved {move}" for move in measures.moves]
    if saved.edited:
        said.append("program.py was edited by hand: it need not do what this plan says")
    if compared.missing:
        shown = ", ".join(compared.missing[:8]) + (", ..." if len(compared.missing) > 8 else "")
        said.append(f"not in the program any more: {shown}")
    return said


def _or_dash(seconds: float) -> str:
    return milliseconds(seconds) if seconds else "-"


def _ratio(value: float, said: float) -> str:
    return f"{value / said:.2f}" if said else "-"


def _off(row: ProfileRow) -> str:
    difference = row.shown - row.predicted
    return f"{'-' if difference < 0 else '+'}{milliseconds(abs(difference))}"
