"""The tables of a program whose graph is divided: its segments, what crosses between them, and the schedule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autopar.codegen.layout_tables import layout_text
from autopar.codegen.steps import LocalValue, Loop, LoweredProgram, LoweredSegment, Run
from autopar.ir.graph import Graph, Node
from autopar.ir.pipeline.schedule import ActionLists, format_schedule


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A segment as the program has it: its function with the names of its arguments, and the names of what goes in and out."""

    segment: LoweredSegment
    function: str
    arguments: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def segment_table(
    graph: Graph, program: LoweredProgram, arguments: Mapping[str, str], taken: set[str]
) -> tuple[SegmentRow, ...]:
    """The rows, with names that are not `taken`. `arguments` are those of forward, by their values."""
    inputs = {item.value: item.name for item in graph.inputs}
    crossing = crossing_names(program, {*inputs.values()})
    rows: list[SegmentRow] = []
    for segment in program.segments:
        own: list[str] = []
        for held in segment.reads:
            plain = arguments.get(held.value) or re.sub(r"_\d+$", "", held.value)
            own.append(unused(plain, {*own, *(taken - {*arguments.values()})}))
        function = unused(_function(graph, segment), {*taken, *(row.function for row in rows)})
        reads = tuple(inputs.get(held.value) or crossing[held] for held in segment.reads)
        rows.append(SegmentRow(segment, function, tuple(own), reads, tuple(crossing[held] for held in segment.writes)))
    return tuple(rows)


def crossing_names(program: LoweredProgram, taken: set[str]) -> dict[LocalValue, str]:
    """What every tensor that leaves a segment is called: as its value, or like it where that is taken."""
    names: dict[LocalValue, str] = {}
    for held in dict.fromkeys(held for segment in program.segments for held in segment.writes):
        names[held] = unused(held.value, {*taken, *names.values()})
    return names


def pipeline_ending(
    graph: Graph, program: LoweredProgram, rows: Sequence[SegmentRow], schedule: ActionLists, more: str
) -> str:
    """The last lines of a program in segments; `more` are further arguments of `Program`."""
    names = {held: name for row in rows for held, name in zip(row.segment.writes, row.writes, strict=True)}
    crossing = {name for row in rows for name in row.reads}
    edges = "".join(f'    "{name}": {_layouts(held)},\n' for held, name in names.items() if name in crossing)
    table = "".join(f"    {_row(row)},\n" for row in rows)
    parts = [f"SEGMENTS = [\n{table}]", f"EDGES = {{\n{edges}}}" if edges else "EDGES = {}"]
    parts += ["# per position, in its order: F forward, B backward, W weight gradients of a segment.micro-batch"]
    parts += [f'SCHEDULE = """\n{format_schedule(schedule)}"""']
    returned = [names[held] for held in (program.loss, *program.outputs)]
    returns = f", returns=[{_quoted(returned)}]" * (returned != ["loss"])
    counts = graph.division.counts if graph.division is not None else ()
    returns += f", counted=[{_quoted(counts)}]" * bool(counts)
    last = f"PROGRAM = Program(GRID, Pipeline(SEGMENTS, EDGES, SCHEDULE{returns}), INPUTS, PARAMETERS{more})"
    return "\n".join([*parts, last, 'if __name__ == "__main__":', "    main(PROGRAM, __file__)"])


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _row(row: SegmentRow) -> str:
    reads, writes = _quoted(row.reads), _quoted(row.writes)
    draws = row.segment.draws
    more = f", draws={draws[0] if draws == tuple(range(draws[0], draws[-1] + 1)) else list(draws)}" if draws else ""
    return f"Segment({row.function}, at={row.segment.position}, reads=[{reads}], writes=[{writes}]{more})"


def _layouts(held: LocalValue) -> str:
    return f"[{', '.join(map(layout_text, held.layouts))}]"


def _function(graph: Graph, segment: LoweredSegment) -> str:
    """Where the segment begins and ends, in the names of the user's modules: ``wte_to_h5``."""
    nodes = [node for step in segment.steps for node in _nodes(step)]
    if not nodes:
        return "segment"
    first, last = _module(nodes[0]), _module(nodes[-1])
    if graph.loss in nodes[-1].outputs:
        last = "loss"
    words = [word for word in dict.fromkeys((first, last)) if word]
    name = re.sub(r"\W", "_", "_to_".join(words)) or "segment"
    return name if name.isidentifier() else f"segment_{name}"


def _nodes(step: object) -> list[Node]:
    if isinstance(step, Run):
        return [step.annotated.node]
    return [node for block in step.repeat.nodes for node in block] if isinstance(step, Loop) else []


def _module(node: Node) -> str:
    """The block that a call stands in, or the module: ``h5`` of ``transformer.h.5.attn``."""
    parts = [part for part in node.module.split(".") if part]
    number = next((i for i, part in enumerate(parts) if i and part.isdigit()), None)
    if number is not None:
        return f"{parts[number - 1]}{parts[number]}"
    return parts[-1] if parts else re.sub(r"_\d+$", "", node.name)


def unused(name: str, taken: set[str]) -> str:
    """The name, or one like it that is not taken."""
    while name in taken:
        name += "_"
    return name
