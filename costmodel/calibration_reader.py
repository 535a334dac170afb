"""Reads what `autopar.runtime.calibration.run` has written, and says what its measurements mean to the cost model."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median

import msgspec

from autopar.errors import ConfigError, refusal
from autopar.ir.calibration_data import VERSION, Measurements, TimedComputation, TimedMove, spread
from autopar.ir.conversions import PRIMITIVES
from autopar.ir.machine import RankClass
from autopar.ir.machine_schema import interval_text

_OTHERS = ("halo", "gradient_sum", "message")  # movements of their own

_DIFFERENT = 0.1  # relative: what is less is called equal
_SPREADS = 2.0  # of the repeats, that a difference has to be more than


def movement_of(measurement: TimedMove) -> str:
    """The movement that this is, see `autopar.costmodel.communication`; ``message`` is a plain exchange."""
    if measurement.primitive in _OTHERS:
        return measurement.primitive
    return PRIMITIVES[measurement.primitive].moves[measurement.direction == "adjoint"]


def priced_bytes(measurement: TimedMove) -> float:
    """The bytes by which its movement is priced."""
    what = movement_of(measurement)
    if what == "slice":
        return float(min(measurement.before, measurement.after))
    return float(
        measurement.before + measurement.after if what == "fill" else max(measurement.before, measurement.after)
    )


def per_second(computed: TimedComputation) -> float:
    """What it does per second."""
    return computed.amount / median(computed.seconds)


def read_measurements(path: Path) -> Measurements:
    """The measurements in a file. Raises ConfigError where it is none, or another version's."""
    where, fix = (
        f"measurements {str(path)!r}",
        "write it by `mpiexec ... -m autopar.runtime.calibration.run --out FILE`",
    )
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=Measurements)
    except (OSError, msgspec.MsgspecError) as error:
        rule = "measurements are a file that the calibration's ranks have written"
        raise ConfigError(refusal(where, "cannot be read", rule, [str(error)], fix)) from error
    wrong = list(_wrong(raw))
    if wrong:
        rule = "every time is a positive number of seconds, of a primitive that is known"
        raise ConfigError(refusal(where, f"{len(wrong)} entries are wrong", rule, wrong, fix))
    return raw


def _wrong(raw: Measurements) -> list[str]:
    if raw.version != VERSION:
        return [f"version {raw.version}, where this autopar reads version {VERSION}"]
    mistakes = ["no places"] * (not raw.places) + [f"{raw.cores} cores"] * (raw.cores < 1)
    known = {*PRIMITIVES, *_OTHERS}
    mistakes += sorted({f"{move.primitive!r} is no primitive" for move in raw.moved if move.primitive not in known})
    timed = [(move.primitive, move.seconds) for move in raw.moved]
    timed += [(timing.name, timing.seconds) for timing in raw.computed]
    mistakes += [
        f"{name}: {list(seconds)} seconds"
        for name, seconds in timed
        if not seconds or not all(0 < value < math.inf for value in seconds)
    ]
    return mistakes


def rank_speeds(raw: Measurements) -> tuple[float, ...]:
    """The speed of every rank over the fastest's; empty where all are alike, or this was not measured."""
    if not raw.alone:
        return ()
    took = [median(seconds) for seconds in raw.alone]
    speeds = tuple(min(took) / seconds for seconds in took)
    return speeds if min(speeds) < 1 - _tolerance(raw) else ()


def rank_classes(raw: Measurements) -> tuple[RankClass, ...]:
    """The ranks that are slower than the fastest by more than the noise, those of about one speed together."""
    classes: list[list[int]] = []
    speeds, tolerance = rank_speeds(raw), _tolerance(raw)
    for rank in sorted(range(len(speeds)), key=lambda rank: (speeds[rank], rank)):
        if classes and speeds[rank] <= speeds[classes[-1][0]] * (1 + tolerance):
            classes[-1].append(rank)
        else:
            classes.append([rank])
    slow = [sorted(ranks) for ranks in classes if max(speeds[rank] for rank in ranks) < 1 - tolerance]
    return tuple(
        RankClass(ranks=interval_text(ranks), speed=round(median(speeds[rank] for rank in ranks), 2))
        for ranks in sorted(slow)
    )


def _tolerance(raw: Measurements) -> float:
    return max(_DIFFERENT, _SPREADS * median(spread(seconds) for seconds in raw.alone)) if raw.alone else _DIFFERENT
