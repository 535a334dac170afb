"""What `autopar simulate` found, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from autopar.analysis.scaling import Noise, Point
from autopar.analysis.split_summary import sentence
from autopar.cli.tables import cut, milliseconds, note, say, show, table
from autopar.costmodel.timeline import Event, Ranks
from autopar.ir.machine import Machine
from autopar.ir.plan import Plan
from autopar.ir.units import bytes_text

SIGNS = {"forward": "F", "backward": "B", "communication": "x", "gradients": "g", "update": "u", "wait": "."}
LANES = "F forward, B backward, x exchange, g gradient sums, u update, . waits; each sign what the rank does most in that time"
BAR = "where a step's time goes: = compute and update, x exchanges, g gradient sums that do not hide, . waiting for slow ranks"
_WIDTH, _BAR = 72, 20


def step_facts(plan: Plan, noise: Noise, found: Ranks, even: float) -> dict[str, Any]:
    """One step for programs."""
    return _heading(plan, plan.machine, noise) | {
        "grid": plan.grid,
        "ranks": len(found.waiting),
        "step_seconds": found.seconds,
        "even_seconds": even,
        "steps": list(found.steps),
        **{f"{name}_seconds": value for name, value in _parts(found).items()},
        "most_waiting_seconds": float(max(found.waiting)) / len(found.steps),
        "critical": found.critical,
    }


def _heading(plan: Plan, machine: Machine, noise: Noise) -> dict[str, Any]:
    given = asdict(noise) | {"slow": {str(rank): factor for rank, factor in sorted(noise.slow.items())}}
    return {"model": plan.name, "machine": machine.name, "noise": given}


def _parts(found: Ranks) -> dict[str, float]:
    """Seconds per step of the critical rank."""
    steps, rank = len(found.steps), found.critical
    per_rank = {
        name: float(getattr(found, name)[rank]) / steps for name in ("compute", "communication", "exposed", "waiting")
    }
    return per_rank | {"sums": found.sums / steps}


def show_step(plan: Plan, noise: Noise, found: Ranks, even: float, events: Mapping[int, tuple[Event, ...]]) -> None:
    """One step for people: a table, and the lanes of the ranks of interest."""
    listing = table("", "")
    listing.show_header = False
    for name, text in _rows(plan, noise, found, even).items():
        listing.add_row(name, text)
    show(listing, title=f"{plan.name} on grid {plan.grid}, machine {plan.machine.name}: one step, predicted")
    for rank in list(events)[:4] if len(found.waiting) > 1 and not noise.quiet else [0]:
        for lane in ("compute", "communication"):
            shown = [event for event in events[rank] if event.lane == lane]
            if shown or lane == "compute":
                say(f"rank {rank:<5} {lane:<14} {_lane(shown, max(event.end for event in events[rank]))}")
    note("", LANES)


def _rows(plan: Plan, noise: Noise, found: Ranks, even: float) -> dict[str, str]:
    parts = _parts(found)
    spread = f", {milliseconds(min(found.steps))} to {milliseconds(max(found.steps))} over {len(found.steps)} steps"
    rows = {
        "step": milliseconds(found.seconds) + (spread if len(found.steps) > 1 else ""),
        "compute": f"{milliseconds(parts['compute'])}, update included",
        "exchanges": milliseconds(parts["communication"]),
        "gradients": f"{milliseconds(parts['sums'])} of sums, {milliseconds(parts['exposed'])} of them not behind backward",
    }
    if noise.quiet:
        return rows
    slow = noise.slow.get(found.critical, 1.0)
    about = f" ({slow:g} x as long for its compute)" if slow != 1.0 else ""
    rows["critical"] = f"rank {found.critical}{about}: it waits {milliseconds(parts['waiting'])} a step, others up to "
    rows["critical"] += milliseconds(float(max(found.waiting)) / len(found.steps))
    rows["undisturbed"] = f"{milliseconds(even)}: the step takes {_percent(found.seconds / even - 1)}"
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


def _point(one: Point) -> dict[str, Any]:
    plan = one.plan
    return {
        "scaling": one.scaling,
        "ranks": one.ranks,
        "rows": one.rows,
        "grid": plan.grid if plan else None,
        "split": sentence(plan) if plan else None,
        "step_seconds": one.seconds if plan else None,
        "speedup": one.speedup if plan else None,
        "efficiency": one.efficiency if plan else None,
        "communication_share": _share(one) if plan else None,
        "bytes": plan.predicted.bytes if plan else None,
        "why": one.why,
    }


def _share(one: Point) -> float:
    """The share of a step in exchanges and gradient sums that do not hide."""
    assert one.plan is not None
    predicted = one.plan.predicted
    return (predicted.communication + predicted.gradients) / one.seconds if one.seconds else 0.0


def show_curve(plan: Plan, machine: Machine, noise: Noise, points: Sequence[Point]) -> None:
    """The curves for people."""
    say("")
    disturbed = "" if noise.quiet else f", slow ranks {dict(noise.slow) or 'none'}, jitter {noise.jitter:g}"
    for kind in dict.fromkeys(point.scaling for point in points):
        listing = table("ranks", "rows", "grid", "split", "step", "", "speed-up", "efficiency", "exchanges", "memory")
        for column in listing.columns:
            column.justify = "left" if column.header in ("grid", "split", "") else "right"
            column.no_wrap = True
        for one in (point for point in points if point.scaling == kind):
            listing.add_row(*_cells(one))
        what = "the same batch on all" if kind == "strong" else "the batch grows with the ranks"
        show(listing, title=f"{plan.name} on {machine.name}, {kind} scaling: {what}{disturbed}, predicted", cut="split")
    for one in points:
        if one.why:
            say(f"{one.ranks} ranks, {one.scaling}: {one.why}")
    note(
        BAR,
        "exchanges: the share of the step in x and g; memory: the peak of one rank",
        "speed-up is over one rank that holds everything, also where its memory would not do",
    )


def _cells(one: Point) -> tuple[Any, ...]:
    rows = str(one.rows) if one.rows else ""
    if one.plan is None:
        return str(one.ranks), rows, "-", "no plan, see below", "", "", "", "", "", ""
    return (
        str(one.ranks), rows, one.plan.grid, cut(sentence(one.plan)), milliseconds(one.seconds), _bar(one),
        _times(one.speedup), f"{one.efficiency:.1%}", f"{_share(one):.1%}", bytes_text(one.plan.predicted.bytes),
    )  # fmt: skip


def _times(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _bar(one: Point) -> str:
    assert one.plan is not None
    predicted = one.plan.predicted
    parts = {"=": predicted.compute + predicted.update, "x": predicted.communication, "g": predicted.gradients}
    parts["."] = max(0.0, one.seconds - predicted.seconds)
    total, line, done = sum(parts.values()) or 1.0, "", 0.0
    for sign, seconds in parts.items():
        done += seconds
        line += sign * (round(done / total * _BAR) - len(line))
    return line
