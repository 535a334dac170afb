"""What `autopar simulate` spent, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from autopar.analysis.scaling import Noise, Point
from autopar.analysis.split_summary import cuts_sentence, sentence
from autopar.cli.tables import cut, milliseconds, note, say, show, table
from autopar.costmodel.timeline import Event, Ranks
from autopar.ir.machine import Machine
from autopar.ir.plan import Plan
from autopar.ir.units import bytes_text

SIGNS = {"forward": "F", "backward": "B", "communication": "x", "gradients": "g", "update": "u", "wait": "."}
LANES = "F forward, B backward, x exchange, g gradient sums, u update, . waits; each sign what the rank does most in that time"
BAR = "a step: = compute and update, x exchanges, g gradient sums that do not hide, . waiting for slow ranks, or other positions"
_WIDTH, _BAR = 72, 20


def step_facts(plan: Plan, noise: Noise, spent: Ranks, even: float) -> dict[str, Any]:
    """One step for programs."""
    return _heading(plan, plan.machine, noise) | {
        "grid": plan.grid,
        "ranks": len(spent.waiting),
        "step_seconds": spent.seconds,
        "even_seconds": even,
        "steps": list(spent.steps),
        **{f"{name}_seconds": value for name, value in _parts(spent).items()},
        "most_waiting_seconds": float(max(spent.waiting)) / len(spent.steps),
        "critical": spent.critical,
    }


def _heading(plan: Plan, machine: Machine, noise: Noise) -> dict[str, Any]:
    settings = asdict(noise) | {"slow": {str(rank): factor for rank, factor in sorted(noise.slow.items())}}
    return {"model": plan.name, "machine": machine.name, "noise": settings}


def _parts(spent: Ranks) -> dict[str, float]:
    """Seconds per step of the critical rank."""
    steps, rank = len(spent.steps), spent.critical
    per_rank = {
        name: float(getattr(spent, name)[rank]) / steps for name in ("compute", "communication", "exposed", "waiting")
    }
    return per_rank | {"sums": spent.sums / steps}


def show_step(plan: Plan, noise: Noise, spent: Ranks, even: float, events: Mapping[int, tuple[Event, ...]]) -> None:
    """One step for people: a table, and the lanes of the ranks of interest."""
    listing = table("", "")
    listing.show_header = False
    for name, text in _rows(noise, spent, even).items():
        listing.add_row(name, text)
    show(listing, title=f"{plan.name} on grid {plan.grid}, machine {plan.machine.name}: one step, predicted")
    for rank in list(events)[:4] if len(spent.waiting) > 1 and not noise.quiet else [0]:
        for lane in ("compute", "communication"):
            shown = [event for event in events[rank] if event.lane == lane]
            if shown or lane == "compute":
                say(f"rank {rank:<5} {lane:<14} {_lane(shown, max(event.end for event in events[rank]))}")
    note("", LANES)


def say_replanned(plan: Plan, before: float, after: float) -> None:
    """What the slow ranks would cost as compiled, and cost now."""
    cuts = f"; {cuts_sentence(plan)}" if plan.cuts else ""
    say(
        f"planned anew for slow ranks: {milliseconds(after)}, where the plan as compiled takes {milliseconds(before)}{cuts}"
    )


def _rows(noise: Noise, spent: Ranks, even: float) -> dict[str, str]:
    parts = _parts(spent)
    spread = f", {milliseconds(min(spent.steps))} to {milliseconds(max(spent.steps))} over {len(spent.steps)} steps"
    rows = {
        "step": milliseconds(spent.seconds) + (spread if len(spent.steps) > 1 else ""),
        "compute": f"{milliseconds(parts['compute'])}, update included",
        "exchanges": milliseconds(parts["communication"]),
        "gradients": f"{milliseconds(parts['sums'])} of sums, {milliseconds(parts['exposed'])} of them not behind backward",
    }
    if noise.quiet:
        return rows
    slow = noise.slow.get(spent.critical, 1.0)
    about = f" ({slow:g} x as long for its compute)" if slow != 1.0 else ""
    rows["critical"] = f"rank {spent.critical}{about}: it waits {milliseconds(parts['waiting'])} a step, others up to "
    rows["critical"] += milliseconds(float(max(spent.waiting)) / len(spent.steps))
    rows["undisturbed"] = f"{milliseconds(even)}: the step takes {_percent(spent.seconds / even - 1)}"
    worst = max(noise.slow.values(), default=1.0)
    if worst > 1:
        rows["undisturbed"] += f", where the slowest rank computes {_percent(worst - 1)}"
    return rows


def _percent(more: float) -> str:
    return f"{abs(more):.1%} {'longer' if more >= 0 else 'shorter'}"


def _lane(events: Sequence[Event], end: float) -> str:
    """A line of signs over the time until `end`."""
    line = ""
    for place in range(_WIDTH):
        low, high = end * place / _WIDTH, end * (place + 1) / _WIDTH
        spent: dict[str, float] = {}
        for event in events:
            inside = min(event.end, high) - max(event.start, low)
            if inside > 0:
                spent[event.kind] = spent.get(event.kind, 0.0) + inside
        line += SIGNS[max(spent, key=lambda kind: spent[kind])] if spent else " "
    return line


def say_point(point: Point, tried: int, seconds: float) -> None:
    """A line of progress."""
    what = f"{point.plan.grid}, {milliseconds(point.seconds)}" if point.plan else "no plan"
    grids = f"best of {tried} grids" if tried > 1 else "one grid"
    say(f"{point.scaling:<7} {point.ranks:>6} ranks  {grids:<18} {what:<36} {seconds:6.1f} s")


def curve_facts(plan: Plan, machine: Machine, noise: Noise, points: Sequence[Point]) -> dict[str, Any]:
    """The curves for programs."""
    return _heading(plan, machine, noise) | {"points": [_point(point) for point in points]}


def _point(point: Point) -> dict[str, Any]:
    plan = point.plan
    return {
        "scaling": point.scaling,
        "ranks": point.ranks,
        "rows": point.rows,
        "grid": plan.grid if plan else None,
        "split": sentence(plan) if plan else None,
        "step_seconds": point.seconds if plan else None,
        "speedup": point.speedup if plan else None,
        "efficiency": point.efficiency if plan else None,
        "communication_share": _share(point) if plan else None,
        "bytes": plan.predicted.bytes if plan else None,
        "why": point.why,
    }


def _share(point: Point) -> float:
    """The share of a step in exchanges and gradient sums that do not hide."""
    assert point.plan is not None
    predicted = point.plan.predicted
    return (predicted.communication + predicted.gradients) / point.seconds if point.seconds else 0.0


def show_curve(plan: Plan, machine: Machine, noise: Noise, points: Sequence[Point]) -> None:
    """The curves for people."""
    say("")
    disturbed = "" if noise.quiet else f", slow ranks {dict(noise.slow) or 'none'}, jitter {noise.jitter:g}"
    for kind in dict.fromkeys(point.scaling for point in points):
        listing = table("ranks", "rows", "grid", "split", "step", "", "speed-up", "efficiency", "exchanges", "memory")
        for column in listing.columns:
            column.justify = "left" if column.header in ("grid", "split", "") else "right"
            column.no_wrap = True
        for shown in (point for point in points if point.scaling == kind):
            listing.add_row(*_cells(shown))
        what = "the same batch on all" if kind == "strong" else "the batch grows with the ranks"
        show(listing, title=f"{plan.name} on {machine.name}, {kind} scaling: {what}{disturbed}, predicted", cut="split")
    for point in points:
        if point.why:
            say(f"{point.ranks} ranks, {point.scaling}: {point.why}")
    note(
        BAR,
        "exchanges: the share of the step in x and g; memory: the peak of one rank",
        "speed-up is over one rank that holds everything, also where its memory would not do",
    )


def _cells(point: Point) -> tuple[Any, ...]:
    rows = str(point.rows) if point.rows else ""
    if point.plan is None:
        return str(point.ranks), rows, "-", "no plan, see below", "", "", "", "", "", ""
    return (
        str(point.ranks), rows, point.plan.grid, cut(sentence(point.plan)), milliseconds(point.seconds), _bar(point),
        _times(point.speedup), f"{point.efficiency:.1%}", f"{_share(point):.1%}", bytes_text(point.plan.predicted.bytes),
    )  # fmt: skip


def _times(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _bar(point: Point) -> str:
    assert point.plan is not None
    predicted = point.plan.predicted
    parts = {"=": predicted.compute + predicted.update, "x": predicted.communication, "g": predicted.gradients}
    parts["."] = predicted.idle + predicted.stalls + max(0.0, point.seconds - predicted.seconds)
    total, line, done = sum(parts.values()) or 1.0, "", 0.0
    for sign, seconds in parts.items():
        done += seconds
        line += sign * (round(done / total * _BAR) - len(line))
    return line
