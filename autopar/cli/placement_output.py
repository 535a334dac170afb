"""What a divided plan says of its place axis, for people and programs: segments, edges, positions, other ways, the step in time."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from autopar.analysis import placement_timeline
from autopar.analysis.measured_actions import action_rows
from autopar.cli.tables import console, cut, milliseconds, note, say, show, table
from autopar.ir.grid import GridShape
from autopar.ir.pipeline.measured_step import MeasuredStep
from autopar.ir.pipeline.placement_plan import PlacementPlan, SegmentPlan
from autopar.ir.plan import Plan
from autopar.ir.units import bytes_text

if TYPE_CHECKING:
    from rich.table import Table

_LANES = 16  # positions that are drawn
_WIDEST = 120


def sentence(placement: PlacementPlan) -> str:
    """What the division comes to: ``largest work 1.04 x the mean, 12% idle, 1.5 MiB cut, gap 1.5%``."""
    idle = sum(placement.idle) / placement.positions
    return (
        f"largest work {placement.imbalance:.2f} x the mean, {idle:.1%} idle, "
        f"{bytes_text(placement.cut_bytes)} between positions, gap {placement.gap:.1%}"
    )


def beside(placement: PlacementPlan) -> str:
    """What plainer ways to divide the graph take: ``round robin 95 ms, equal counts 88 ms``."""
    return ", ".join(f"{other.name} {milliseconds(other.makespan)}" for other in placement.baselines)


def facts(placement: PlacementPlan) -> dict[str, Any]:
    """The division for programs."""
    return {
        "axis": placement.axis,
        "microbatches": placement.microbatches,
        "makespan": placement.makespan,
        "bound": placement.bound,
        "gap": placement.gap,
        "cut_bytes": placement.cut_bytes,
        "imbalance": placement.imbalance,
        "segments": [
            {"function": segment.function, "position": segment.position, "calls": len(segment.calls)}
            for segment in placement.segments
        ],
        "positions": [asdict(each) for each in placement_timeline.positions(placement)],
        "beside": [asdict(other) for other in placement.baselines],
    }


def step_facts(plan: Plan, placement: PlacementPlan) -> dict[str, Any]:
    """One step in time for programs."""
    return {
        "model": plan.name,
        "machine": plan.machine.name,
        "grid": plan.grid,
        "ranks": GridShape.parse(plan.grid).size,
        "step_seconds": placement.makespan,
        "positions": [asdict(each) for each in placement_timeline.positions(placement)],
        "actions": timeline_facts(placement),
    }


def timeline_facts(placement: PlacementPlan) -> list[list[dict[str, Any]]]:
    """Per position its actions in their order, with seconds from the start of the step."""
    drawn = placement_timeline.timeline(placement)
    return [
        [{"action": str(a), "start": start, "end": end} for a, start, end in zip(*rows, strict=True)]
        for rows in zip(drawn.lists, drawn.start, drawn.end, strict=True)
    ]


def show_segments(plan: Plan, placement: PlacementPlan) -> None:
    """The tables of segments and of what goes between them."""
    show(_segments(plan, placement), cut="modules", title=f"segments; seconds of one of {_parts(placement)}", least=10)
    if placement.edges:
        show(
            _edges(placement), title="edges: what goes from segment to segment, per micro-batch", cut="tensor", least=16
        )


def show_positions(placement: PlacementPlan) -> None:
    """The tables of positions and of other ways to divide the graph, and the step drawn in time."""
    title = f"positions of {placement.axis}, one step of {milliseconds(placement.makespan)}, predicted"
    show(_positions(placement), title=title)
    show(_divisions(placement), title="beside other ways to divide the graph, simulated alike")
    show_lanes(placement)


def show_measured(placement: PlacementPlan, step: MeasuredStep) -> None:
    """Positions of one step, predicted beside measured, and both drawn in time."""
    headings = ("position", "work predicted", "measured", "idle predicted", "measured", "memory predicted", "measured")
    listing = table(*headings, numbers=1)
    for each in placement_timeline.positions(placement):
        work = step.slowest(each.position).work
        idle = 1.0 - work / step.seconds if step.seconds else 0.0
        listing.add_row(
            str(each.position), milliseconds(each.work), milliseconds(work), f"{each.idle:.1%}", f"{idle:.1%}",
            bytes_text(each.bytes), bytes_text(step.peak(each.position)) if step.peak(each.position) else "-",
        )  # fmt: skip
    listing.add_row("step", milliseconds(placement.makespan), milliseconds(step.seconds), "", "", "", "")
    show(
        listing,
        title=f"positions of {placement.axis}, one step; measured: the rank that has worked longest, holds most",
    )
    show(
        _actions(placement, step), title="actions, one micro-batch; measured: without waits, median of the slowest rank"
    )
    width = max(20, min(_WIDEST, console().width - len(f"position {placement.positions - 1}  ")))
    for title, lanes in (
        ("predicted", placement_timeline.lanes(placement, width)),
        ("measured", placement_timeline.measured_lanes(placement, step, width)),
    ):
        note("", title)
        _say_lanes(lanes)
    note(
        "",
        f"{placement_timeline.LEGEND}; each step to its own scale; a measured one ends with sums and update as waits",
    )


def _actions(placement: PlacementPlan, step: MeasuredStep) -> Table:
    listing = table("segment", "function", "action", "predicted time", "measured time", "ratio")
    listing.columns[-1].justify = "right"
    for row in action_rows(placement, step):
        ratio = f"{row.measured / row.predicted:.2f}" if row.predicted else "-"
        spent = milliseconds(row.predicted), milliseconds(row.measured)
        listing.add_row(str(row.segment), row.function, row.kind, *spent, ratio)
    return listing


def show_lanes(placement: PlacementPlan) -> None:
    """The step in time, a line per position."""
    head = len(f"position {placement.positions - 1}  ")
    lanes = placement_timeline.lanes(placement, max(20, min(_WIDEST, console().width - head)))
    _say_lanes(lanes)
    more = f"; {placement_timeline.SEGMENTS_LEGEND}" if placement_timeline.several_segments(placement) else ""
    note("", placement_timeline.LEGEND + more)


def _say_lanes(lanes: tuple[str, ...]) -> None:
    head = len(f"position {len(lanes) - 1}  ")
    for position, lane in enumerate(lanes[:_LANES]):
        say(f"{f'position {position}':<{head}}{lane}")
    if len(lanes) > _LANES:
        say(f"and {len(lanes) - _LANES} positions more; --json has all of them")


def _parts(placement: PlacementPlan) -> str:
    count = placement.microbatches
    return f"{count} micro-batches" if count > 1 else "1 micro-batch"


def _segments(plan: Plan, placement: PlacementPlan) -> Table:
    listing = table(
        "segment", "function", "position", "modules", "calls", "forward time", "backward time", "kept", "parameters"
    )
    for number, segment in enumerate(placement.segments):
        listing.add_row(
            str(number),
            segment.function,
            str(segment.position),
            cut(modules(plan, segment)),
            str(len(segment.calls)),
            milliseconds(segment.seconds_forward),
            milliseconds(segment.seconds_backward),
            bytes_text(segment.kept_bytes),
            bytes_text(segment.parameters_bytes),
        )
    return listing


def modules(plan: Plan, segment: SegmentPlan) -> str:
    """The modules whose calls a segment begins and ends with."""
    paths = {node.name: node.module or plan.name for node in plan.nodes}
    ends = dict.fromkeys(paths[name] for name in (segment.calls[0], segment.calls[-1]))
    return " to ".join(ends)


def _edges(placement: PlacementPlan) -> Table:
    listing = table("tensor", "shape", "dtype", "bytes", "from", "to")
    for edge in placement.edges:
        if edge.readers:
            homes = {placement.segments[segment].position for segment in (edge.source, *edge.readers)}
            back = ", stays" if len(homes) == 1 else ", and back" * edge.differentiable
            shape = "x".join(map(str, edge.shape)) or "scalar"
            listing.add_row(
                cut(edge.name), shape, edge.dtype, bytes_text(edge.bytes) + back, _home(placement, edge.source),
                ", ".join(_home(placement, reader) for reader in edge.readers),
            )  # fmt: skip
    return listing


def _home(placement: PlacementPlan, segment: int) -> str:
    return f"segment {segment} on {placement.segments[segment].position}"


def _positions(placement: PlacementPlan) -> Table:
    listing = table("position", "segments", "work time", "idle share", "memory")
    for each in placement_timeline.positions(placement):
        numbers = ", ".join(map(str, each.segments)) or "none"
        listing.add_row(
            str(each.position), numbers, milliseconds(each.work), f"{each.idle:.1%}", bytes_text(each.bytes)
        )
    return listing


def _divisions(placement: PlacementPlan) -> Table:
    listing = table("division", "step time", "imbalance", "between positions")
    for name, seconds, imbalance, size in (
        ("this plan", placement.makespan, placement.imbalance, placement.cut_bytes),
        *((other.name, other.makespan, other.imbalance, other.cut_bytes) for other in placement.baselines),
    ):
        listing.add_row(name, milliseconds(seconds), f"{imbalance:.2f}", bytes_text(size))
    listing.add_row("lower bound", milliseconds(placement.bound), "", f"gap {placement.gap:.1%}")
    return listing
