"""Segments of a divided program on other positions: its tables with other lists, proved as at the start, and who holds what then.

Nothing is moved here, and nothing changed: whatever cannot be is refused before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autopar.errors import ConfigError, InfeasiblePlan, refusal
from autopar.ir.pipeline.schedule import ActionLists, format_schedule
from autopar.ir.units import bytes_text
from autopar.partitioner.placement.assignment import homes, pipeline
from autopar.partitioner.placement.problem import PlacementProblem
from autopar.partitioner.placement.relocation import at_places
from autopar.partitioner.schedules.auto import auto
from autopar.partitioner.schedules.simulate import simulate
from autopar.runtime.diagnostics.collective_errors import alike, by_rank0, together
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters.holders import Holders
from autopar.runtime.pipeline.segment_costs import segment_problem
from autopar.runtime.pipeline.wiring import Wiring
from autopar.runtime.program.pipeline import Pipeline
from autopar.runtime.session.batch_programs import BatchProgram
from autopar.runtime.session.pipelined_step import check_positions, wiring_of

_WHERE = "moving segments"


@dataclass(frozen=True, slots=True)
class Relocated:
    """Programs whose segments stand elsewhere, their checked tables, and the positions of their tensors."""

    programs: tuple[BatchProgram, ...]
    wires: tuple[Wiring, ...]
    holders: Holders


def relocated(
    grid: Grid, programs: Sequence[BatchProgram], moves: Mapping[int, int], lists: ActionLists | None
) -> Relocated:
    """The programs with segments, by number, on other positions. Collective; alike on all ranks.

    The first one has these `lists`; where none are given, and for the others, rank 0 finds them. Raises ConfigError for moves
    that cannot be, PlanError for lists that cannot, and InfeasiblePlan where a position has no room.
    """
    with together(grid.comm, _WHERE):
        _check(grid, programs, moves)

    def texts() -> object:
        given = [lists, *(None for _ in programs[1:])]
        return [
            sorted([segment, position] for segment, position in moves.items()),
            [_schedule(grid, each, moves, known) for each, known in zip(programs, given, strict=True)],
        ]

    same, schedules = by_rank0(grid.comm, "finding a schedule", texts)
    with together(grid.comm, _WHERE):
        if same != sorted([segment, position] for segment, position in moves.items()):
            raise ConfigError(refusal(_WHERE, f"{dict(moves)}, and on rank 0 {dict(same)}", "all ranks move the same"))
        found = [_with(each, moves, text) for each, text in zip(programs, schedules, strict=True)]
        wires = [_wires(each) for each in found]
        holders = Holders(grid.place, wires[0].positions(programs[0].description.parameters))
        for each, wired in zip(found[1:], wires[1:], strict=True):
            check_positions(wired, each.description, holders)
    return Relocated(tuple(found), tuple(wires), holders)


def in_words(moves: Mapping[int, int]) -> str:
    """Which segments move; empty where none does."""
    texts = [f"segment {segment} to position {position}" for segment, position in sorted(moves.items())]
    return f"segments, {', '.join(texts)}" if texts else ""


def moved_pipeline(pipeline: Pipeline, moves: Mapping[int, int], schedule: str) -> Pipeline:
    """The tables with segments, by number, on other positions."""
    segments = [replace(one, at=moves.get(number, one.at)) for number, one in enumerate(pipeline.segments)]
    return replace(pipeline, segments=segments, schedule=schedule)


def _check(grid: Grid, programs: Sequence[BatchProgram], moves: Mapping[int, int]) -> None:
    """Raise ConfigError with all that is wrong with moves."""
    if grid.place is None:
        rule = "segments stand on the positions of a place axis"
        raise ConfigError(refusal(_WHERE, f"grid {grid.shape} has no place axis", rule))
    first, positions = _pipeline(programs[0]), grid.place.size
    faults = [
        f"segment {segment} to position {position}"
        for segment, position in moves.items()
        if not (0 <= segment < len(first.segments) and 0 <= position < positions)
    ]
    if faults:
        rule = f"there are segments 0 to {len(first.segments) - 1}, and positions 0 to {positions - 1}"
        raise ConfigError(refusal(_WHERE, f"{len(faults)} moves", rule, faults))
    for each in programs[1:]:
        if lines := list(_apart(programs[0], each)):
            rule = "programs for several numbers of rows move together: they have the same segments"
            where = f"the program for {each.description.rows} rows"
            raise ConfigError(refusal(_WHERE, f"{where} is divided otherwise", rule, lines[:10]))


def _apart(first: BatchProgram, other: BatchProgram) -> Iterator[str]:
    """What is read by other segments in another program, or stands elsewhere."""
    mine, theirs = _pipeline(first).segments, _pipeline(other).segments
    if [one.at for one in mine] != [one.at for one in theirs]:
        yield f"its segments are at {[one.at for one in theirs]}, not {[one.at for one in mine]}"
    readers = {item.name: item.segments for item in first.description.parameters}
    for item in other.description.parameters:
        if item.kind != "constant" and item.segments != readers.get(item.name):
            yield f"{item.name} is read by its segments {item.segments}, not {readers.get(item.name)}"


def _pipeline(program: BatchProgram) -> Pipeline:
    forward = program.program.forward
    assert isinstance(forward, Pipeline), "a program on a grid with a place axis is divided"
    return forward


def _with(program: BatchProgram, moves: Mapping[int, int], schedule: str) -> BatchProgram:
    forward: Callable[..., object] | Pipeline = moved_pipeline(_pipeline(program), moves, schedule)
    return replace(program, program=replace(program.program, forward=forward))


def _wires(program: BatchProgram) -> Wiring:
    wires = wiring_of(program.program, program.description)
    assert wires is not None
    return wires


def _schedule(grid: Grid, program: BatchProgram, moves: Mapping[int, int], lists: ActionLists | None) -> str:
    """The text of the lists, which fit into the memory that the plan was made for. Raises PlanError, InfeasiblePlan."""
    table = _pipeline(program)
    if lists is not None:
        _wires(_with(program, moves, format_schedule(lists)))
    problem = segment_problem(program.description, program.parameters, grid.axes, len(table.segments))
    before = [one.at for one in table.segments]
    after = [moves.get(number, position) for number, position in enumerate(before)]
    task = pipeline(problem, at_places(after))
    _check_room(problem, before, after)
    if lists is None:
        return format_schedule(auto(task))
    peaks = simulate(task, lists).peak
    faults = [
        f"position {position}: {bytes_text(peak)} in flight, and room for {bytes_text(max(0.0, task.most(position)))}"
        for position, peak in enumerate(peaks)
        if peak > task.most(position)
    ]
    _refuse(faults, "what is in flight has room beside the parameters of a position")
    return format_schedule(lists)


def _check_room(problem: PlacementProblem, before: Sequence[int], after: Sequence[int]) -> None:
    """Raise InfeasiblePlan where a position has no room for what comes beside what it has, which goes only when that is there."""
    held = [0.0] * len(problem.positions)
    ways = (homes(problem, at_places(at)) for at in (before, after))
    for parameter, old, new in zip(problem.parameters, *ways, strict=True):
        for position in {*old, *new}:
            held[position] += parameter.size
    faults = [
        f"position {position}: {bytes_text(size)}, and room for {bytes_text(most)}"
        for position, (size, most) in enumerate(zip(held, problem.memories, strict=True))
        if size > most
    ]
    _refuse(faults, "parameters, gradients and optimizer state that come have room beside those that are there")


def _refuse(faults: Sequence[str], rule: str) -> None:
    if faults:
        given = "no room under the memory limit that the plan was made for"
        raise alike(InfeasiblePlan(refusal(_WHERE, given, rule, faults, "move fewer segments at once")))
