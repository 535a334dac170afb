"""From measurements to a machine profile: a fit per movement and place, rates per class of work, and how far to trust them.

Ranks that share cores slow each other down. What a rank does by itself was measured on as many as have a core each; what ranks
of one node exchange, on all of them, is divided by the `crowding`, so that the profile says what it takes on a core of
one's own. Where ranks differ by more than the noise, rates are those of the fastest. Where all ranks share one host, the link
between hosts is that of the base profile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import TypeVar

from autopar.costmodel.calibration_reader import movement_of, per_second, priced_bytes, rank_classes, rank_speeds
from autopar.costmodel.curve_fit import Curve, fit, rounded
from autopar.ir.calibration_data import Measurements, TimedComputation, TimedMove, spread
from autopar.ir.machine import LINK_MOVES, LOCAL_MOVES, OPTIMIZERS, WORKS, Fit, Link, Machine

MOST_SPREAD = 0.3  # of the repeats, between the quartiles; of a fit's points the median counts
LEAST_STALLED = 0.02  # of a rank's time, from which on a profile speaks of stalls
MOST_ERROR = 0.2  # of a fit, relative, at the median point


@dataclass(frozen=True, slots=True)
class FittedCurve:
    """One fit with what it rests on: primitives (with ' their adjoints) and how many points.

    slowest is how many seconds the largest takes, spread is the typical one of a point's repeats, and apart how far
    primitives are from the middle of those of one size.
    """

    place: str
    move: str
    ranks: int
    primitives: tuple[str, ...]
    points: int
    smallest: float
    largest: float
    slowest: float
    spread: float
    apart: float
    curve: Curve


@dataclass(frozen=True, slots=True)
class MeasuredRate:
    """One measured rate: what, in which unit, and the spread of its repeats."""

    name: str
    value: float
    unit: str
    spread: float


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A machine, the fits and rates that it is made of, and what is too noisy to be believed."""

    machine: Machine
    rows: tuple[FittedCurve, ...]
    rates: tuple[MeasuredRate, ...]
    noise: tuple[str, ...]


def calibrate(raw: Measurements, base: Machine, name: str) -> Calibrated:
    """The profile `name`: `base` with everything that was measured in the place of what it had."""
    crowded = max(1.0, raw.ranks_per_node / raw.cores)
    rows, computed = tuple(_rows(_of_the_fastest(raw.moved, raw))), _of_the_fastest(raw.computed, raw)
    machine = replace(_computed(computed, base), name=name, cores_per_node=raw.cores, ranks=rank_classes(raw))
    rate, each = _stalls(raw)
    machine = replace(machine, stall_rate=rate, stall_seconds=each)
    links = {row.place: row for row in rows if row.move == "message"}
    if "intra" in links:
        machine = replace(machine, intra=_link(links["intra"], crowded), overlap=rounded(raw.overlap_intra or 0.0))
    if "inter" in links:
        hidden = None if raw.overlap_inter is None else rounded(raw.overlap_inter)
        machine = replace(machine, inter=_link(links["inter"], 1.0), overlap_inter=hidden)
    if raw.hosts > 1:
        machine = replace(machine, ranks_per_node=raw.ranks_per_node)
    fits = [_fit(row, crowded if row.place == "intra" else 1.0) for row in rows if row.move != "message"]
    kept = [curve for curve in base.fits if curve.place == "inter" and "inter" not in links]
    machine = replace(machine, fits=(*fits, *kept))
    return Calibrated(machine, rows, tuple(_rates(computed)), tuple(_noise(rows, raw.computed)))


def _stalls(raw: Measurements) -> tuple[float | None, float | None]:
    """How often a second of computing a rank is stopped, and for how long; nothing where that is little of its time."""
    computed, count, lost = (sum(every) for every in zip(*raw.stopped, strict=True)) if raw.stopped else (0.0, 0, 0.0)
    if not count or lost < LEAST_STALLED * computed:
        return None, None
    return rounded(count / computed), rounded(lost / count)


Timed = TypeVar("Timed", TimedMove, TimedComputation)


def _of_the_fastest(measured: Sequence[Timed], raw: Measurements) -> tuple[Timed, ...]:
    """What was measured on the slowest rank as the fastest does it; what is sent between ranks takes what it took."""
    speed = min(rank_speeds(raw), default=1.0)
    return tuple(
        replace(one, seconds=tuple(seconds * speed for seconds in one.seconds)) if _by_itself(one) else one
        for one in measured
    )


def _by_itself(one: TimedMove | TimedComputation) -> bool:
    return isinstance(one, TimedComputation) or one.place == "local"


def _rows(moved: Iterable[TimedMove]) -> Iterable[FittedCurve]:
    groups: dict[tuple[str, str], list[TimedMove]] = {}
    for point in moved:
        groups.setdefault((point.place, movement_of(point)), []).append(point)
    order = [(place, move) for place in ("local", "intra", "inter") for move in ("message", *LOCAL_MOVES, *LINK_MOVES)]
    for place, move in order:
        points = groups.get((place, move), [])
        if points:
            yield _row(place, move, points)


def _row(place: str, move: str, points: Sequence[TimedMove]) -> FittedCurve:
    """Primitives that move data alike differ a little: the curve goes through the middle of all of one size."""
    sizes: dict[float, list[float]] = {}
    for point in points:
        sizes.setdefault(priced_bytes(point), []).append(median(point.seconds))
    known = {size: median(times) for size, times in sizes.items()}
    curve = fit(list(known), list(known.values()))
    apart = [abs(time / known[size] - 1) for size, times in sizes.items() for time in times]
    names = dict.fromkeys(point.primitive + "'" * (point.direction == "adjoint") for point in points)
    typical = median(spread(point.seconds) for point in points)
    bounds = (min(sizes), max(sizes), known[max(sizes)])
    return FittedCurve(place, move, points[0].ranks, tuple(names), len(points), *bounds, typical, median(apart), curve)


def _fit(row: FittedCurve, crowded: float) -> Fit:
    ranks = 1 if row.place == "local" else row.ranks
    alpha, beta = rounded(row.curve.alpha / crowded), tuple(rounded(rate * crowded) for rate in row.curve.beta)
    return Fit(row.place, row.move, ranks, alpha, row.curve.until, beta)


def _link(row: FittedCurve, crowded: float) -> Link:
    """What one message costs: its start, and the rate of the largest that was measured."""
    rate = row.largest / max(row.slowest - row.curve.alpha, row.slowest / 2)
    return Link(rounded(row.curve.alpha / crowded), rounded(rate * crowded))


def _computed(computed: Sequence[TimedComputation], base: Machine) -> Machine:
    rates = {
        (work, back): median(
            per_second(timing)
            for timing in computed
            if (timing.work, timing.dtype, timing.direction) == (work, "float32", "backward" if back else "forward")
        )
        for work in WORKS
        for back in (False, True)
        if any((timing.work, timing.direction) == (work, "backward" if back else "forward") for timing in computed)
    }
    peak = rounded(max(rates.values()))
    products = {
        timing.dtype: per_second(timing)
        for timing in computed
        if (timing.work, timing.direction) == ("matmul", "forward")
    } | {"float32": rates["matmul", False]}
    flops = {dtype: rounded(peak * rate / products["float32"]) for dtype, rate in products.items()}
    shares = {work: _share(rates[work, False] / peak) for work in WORKS}
    back = {work: _share(rates[work, True] / peak) for work in WORKS if (work, True) in rates}
    floors = [median(timing.seconds) / timing.amount for timing in computed if timing.kind == "floor"]
    update = {timing.work: rounded(per_second(timing)) for timing in computed if timing.kind == "update"}
    return replace(
        base,
        memory_bandwidth=rounded(mean(per_second(timing) for timing in computed if timing.kind == "memory")),
        launch_floor=rounded(mean(floors)),
        flops=tuple(sorted(flops.items())),
        efficiency=tuple(sorted(shares.items())),
        efficiency_backward=tuple(sorted(back.items())),
        update=tuple(sorted((name, update[name]) for name in OPTIMIZERS if name in update)),
    )


def _share(part: float) -> float:
    return min(1.0, rounded(part))


def _rates(computed: Sequence[TimedComputation]) -> Iterable[MeasuredRate]:
    units = {"operator": "op/s", "memory": "B/s", "update": "B/s", "floor": "s"}
    for timing in computed:
        value = median(timing.seconds) / timing.amount if timing.kind == "floor" else per_second(timing)
        about = [timing.work, timing.name, timing.dtype] if timing.kind == "operator" else [timing.kind, timing.name]
        about += [timing.direction] if timing.kind == "operator" else []
        yield MeasuredRate(" ".join(about), value, units[timing.kind], spread(timing.seconds))


def _noise(rows: Sequence[FittedCurve], computed: Sequence[TimedComputation]) -> Iterable[str]:
    for row in rows:
        what = f"{row.move} ({row.place})"
        if row.spread > MOST_SPREAD:
            yield f"{what}: repeats spread by {row.spread:.0%} of their median, more than {MOST_SPREAD:.0%}"
        if row.curve.median_error > MOST_ERROR:
            yield f"{what}: the fit is off by {row.curve.median_error:.0%} at half of the points, more than {MOST_ERROR:.0%}"
    for timing in computed:
        if spread(timing.seconds) > MOST_SPREAD:
            width = f"{spread(timing.seconds):.0%} of their median, more than {MOST_SPREAD:.0%}"
            yield f"{timing.kind} {timing.name} ({timing.dtype}, {timing.direction}): repeats spread by {width}"
