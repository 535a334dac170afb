"""What a user may ask of a place axis: the schedule by name, and the most segments of a position."""

from __future__ import annotations

from dataclasses import replace

from autopar.errors import ConfigError, nearest, refusal
from autopar.ir.grid import GridShape
from autopar.ir.plan import Options
from autopar.partitioner.placement.place import ONE_STAGE
from autopar.partitioner.schedules.named import NAMED
from autopar.planning.place_axis.position_pins import position_pins

AUTO = "auto"
SCHEDULES = (AUTO, *NAMED)


def most_segments(options: Options) -> int:
    """The most segments that a position may have."""
    if options.segments is not None:
        return options.segments
    return 2 if options.schedule == "interleaved" else 1


def asks_for_place(options: Options) -> bool:
    """Whether anything is asked that only a place axis has: a schedule, a number of segments, pins or bans of positions."""
    return options.schedule != AUTO or options.segments is not None or bool(position_pins(options))


def asked_of(options: Options, grid: GridShape) -> Options:
    """The options without what is about a place axis, where the grid has none."""
    return options if grid.place is not None else replace(options, schedule=AUTO, segments=None)


def check(options: Options, grid: GridShape | None) -> None:
    """Raise ConfigError for a schedule or a number of segments that cannot be; `grid` is None where it is to be found."""
    schedule, segments = options.schedule, options.segments
    if schedule not in SCHEDULES:
        fault = f"{schedule!r} is unknown{nearest(schedule, SCHEDULES)}"
        raise ConfigError(refusal("schedule", fault, "a schedule has one of these names", SCHEDULES))
    if segments is not None and (isinstance(segments, bool) or not isinstance(segments, int) or segments < 1):
        rule = "a position has a whole number of segments at most, 1 or more"
        raise ConfigError(refusal("segments", f"{segments!r}", rule, fix="write e.g. --segments 2"))
    if schedule in ONE_STAGE and segments is not None and segments > 1:
        rule = f"{schedule} is defined where every position has one segment"
        fix = "leave --segments out, or take --schedule interleaved or auto"
        raise ConfigError(refusal("segments", f"{segments} with --schedule {schedule}", rule, fix=fix))
    asked = [f"--schedule {schedule}"] * (schedule != AUTO) + [f"--segments {segments}"] * (segments is not None)
    if asked and grid is not None and grid.place is None:
        rule = "a schedule orders the segments of a graph that is divided over the positions of a place axis"
        fix = "compile for a grid with one, as --grid stage:2x2, or leave it out"
        raise ConfigError(refusal(" ".join(asked), f"grid {grid} has no place axis", rule, fix=fix))


def check_positions(grid: GridShape, calls: int) -> None:
    """Raise ConfigError where a place axis has more positions than the model has calls."""
    if grid.positions > calls:
        assert grid.place is not None
        given = f"{grid.positions} positions for {calls} operator call{'s' * (calls != 1)} of the model"
        rule = f"every position of the place axis {grid.place.name} computes one call at least"
        fix = f"a place axis of {calls} or fewer positions, and more ranks on other axes"
        raise ConfigError(refusal(f"grid {grid}", given, rule, fix=fix))
