"""Who writes and who reads what crosses between segments, and where: what follows from a program's table of segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autopar.errors import ConfigError, ProgramMismatch, refusal
from autopar.ir.layout import Layouts
from autopar.ir.pipeline.schedule import ActionLists, parse_schedule
from autopar.ir.pipeline.schedule_check import SegmentGraph, ValueEdge, check_schedule
from autopar.runtime.program.pipeline import Pipeline, Segment
from autopar.runtime.program.plan_reader import EdgeSpec, TensorSpec


@dataclass(frozen=True, slots=True)
class Crossing:
    """A tensor that crosses: by whom it is written, by which segments it is read, and on which other positions these are."""

    number: int
    spec: EdgeSpec
    layouts: Layouts
    source: int
    readers: tuple[int, ...]
    position: int
    others: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wiring:
    """A pipeline that has been checked: its segments and edges, by name, and the lists of all positions."""

    segments: tuple[Segment, ...]
    edges: Mapping[str, Crossing]
    lists: ActionLists
    microbatches: int
    returns: tuple[str, ...]
    makers: Mapping[str, int]
    counted: tuple[str, ...]
    deferring: frozenset[int]  # segments of whose weight gradients some are actions of their own

    def positions(self, described: Sequence[TensorSpec]) -> dict[str, tuple[int, ...]]:
        """Where tensors are held, by name: on the positions of the segments that read them; on the first where none does."""
        return {item.name: tuple(sorted({self.segments[i].at for i in item.segments})) or (0,) for item in described}

    def read_here(self, position: int, edge: Crossing) -> tuple[int, ...]:
        """The segments of a position that read an edge, in order."""
        return tuple(segment for segment in edge.readers if self.segments[segment].at == position)


def wiring(pipeline: Pipeline, inputs: Sequence[str], described: Sequence[EdgeSpec], positions: int) -> Wiring:
    """The tables of a program read and checked. Raises ProgramMismatch or PlanError with all offenders."""
    segments, specs = tuple(pipeline.segments), {item.name: item for item in described}
    _refuse("SEGMENTS and EDGES", list(_faults(pipeline, [*inputs, *pipeline.counted], specs, positions)))
    makers = {name: i for i, segment in enumerate(segments) for name in segment.writes}
    edges: dict[str, Crossing] = {}
    for name, layouts in pipeline.edges.items():
        source = makers[name]
        readers = tuple(i for i, segment in enumerate(segments) if name in segment.reads)
        at = segments[source].at
        others = tuple(sorted({segments[i].at for i in readers} - {at}))
        edges[name] = Crossing(len(edges), specs[name], tuple(layouts), source, readers, at, others)
    lists = parse_schedule(pipeline.schedule)
    count = 1 + max((action.microbatch for actions in lists for action in actions), default=-1)
    crossing = [
        ValueEdge(name, edge.source, reader, edge.spec.differentiable)
        for name, edge in edges.items()
        for reader in edge.readers
    ]
    check_schedule(SegmentGraph(positions, count, tuple(segment.at for segment in segments), tuple(crossing)), lists)
    deferring = frozenset(action.segment for actions in lists for action in actions if action.kind == "W")
    return Wiring(segments, edges, lists, count, tuple(pipeline.returns), makers, tuple(pipeline.counted), deferring)


def check_tags(wires: Wiring, largest: int) -> None:
    """Raise ConfigError where messages of one step need more tags than the transport has."""
    needed = 2 * len(wires.edges) * wires.microbatches
    if needed > largest:
        problem = f"{needed} messages, of {len(wires.edges)} edges and {wires.microbatches} micro-batches"
        rule = f"each has a tag of its own, and this MPI has {largest}"
        raise ConfigError(refusal("schedule", problem, rule, fix="compile for fewer micro-batches or segments"))


def _faults(pipeline: Pipeline, inputs: Sequence[str], specs: Mapping[str, EdgeSpec], positions: int) -> Iterator[str]:
    """What is wrong with the tables."""
    written: dict[str, int] = {}
    for i, segment in enumerate(pipeline.segments):
        name = segment.function.__name__
        if not 0 <= segment.at < positions:
            yield f"{name} is at {segment.at}; the positions are 0 to {positions - 1}"
        for read in segment.reads:
            if read not in inputs and written.get(read, i) == i:
                yield f"{name} reads {read!r}, which no segment before it writes, and which is no input"
            elif read not in inputs and read not in pipeline.edges:
                yield f"{read!r} has no layouts in EDGES"
        twice = [write for write in segment.writes if write in written or write in inputs]
        yield from (f"{name} writes {write!r}, which is there already" for write in twice)
        written |= dict.fromkeys(segment.writes, i)
    yield from (f"{name!r} of EDGES is written by no segment" for name in pipeline.edges if name not in written)
    yield from (f"{name!r} of EDGES is not in plan.json" for name in pipeline.edges if name not in specs)
    yield from (
        f"{name!r} is to be returned, and no segment writes it" for name in pipeline.returns if name not in written
    )


def _refuse(where: str, problems: list[str]) -> None:
    if problems:
        rule = "a segment reads inputs and what segments before it write; all that crosses has layouts, and a place in plan.json"
        fix = "mend the tables in program.py, or compile again to restore them"
        raise ProgramMismatch(
            refusal(f"{where} of the program", f"{len(problems)} entries do not fit", rule, problems, fix)
        )
