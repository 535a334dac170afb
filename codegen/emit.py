"""The text of one SPMD program: header, tables of layouts, one function per repeated block, `forward`, and a main guard."""

from __future__ import annotations

import ast
import builtins
import itertools
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from autopar.codegen import naming
from autopar.codegen.layout_tables import layout_tables
from autopar.codegen.segment_table import SegmentRow, pipeline_ending, segment_table, unused
from autopar.codegen.source_map import Numbers, numbers, places
from autopar.codegen.statements import Line, Names, Style, expression, lines, path_text
from autopar.codegen.steps import Convert, LocalValue, Loop, LoweredProgram, Run, Step
from autopar.codegen.symbolic_batch import Variant
from autopar.ir.graph import Graph
from autopar.ir.grid import GridShape
from autopar.ir.pipeline.schedule import ActionLists
from autopar.ir.plan import Place
from autopar.ir.units import bytes_text, fraction_text
from autopar.ops.record.printing import Expr
from autopar.ops.record.user_functions import Kept, functions_among
from autopar.partitioner.formulation.priced_problem import Decision
from autopar.partitioner.formulation.recomputation import key_of
from autopar.partitioner.formulation.repeated_blocks import Repeat
from autopar.version import __version__

_COLUMN = 88  # where comments start, or further left where all statements are shorter
_WIDEST = 150  # a comment that would end beyond stands above its line


@dataclass(frozen=True, slots=True)
class Text:
    """What the header says and the comments tell: where the program comes from, and seconds per call."""

    title: str
    source: str
    grid: GridShape
    seconds: Mapping[str, float]  # forward and backward seconds by name of the call
    inside: Mapping[str, tuple[float, float, float]]  # bytes forward, bytes back and seconds exchanged inside a call


@dataclass(frozen=True, slots=True)
class Emitted:
    """A program's text, where in it the steps are, and its table of segments where the graph is divided."""

    text: str
    places: tuple[Place, ...]
    segments: tuple[SegmentRow, ...] = ()


def emit(
    graph: Graph,
    decision: Decision,
    program: LoweredProgram,
    text: Text,
    exported: frozenset[str],
    variant: Variant | None = None,
    schedule: ActionLists = (),
    division: EmittedMicrobatches | None = None,
) -> Emitted:
    """The program. `exported` are the names that `autopar.runtime` offers; `schedule` is that of a program in segments.

    With a `variant` it runs with any number of rows. Raises Baked where it cannot. With a `division` it is that of a micro-batch.
    """
    loops = [step for step in program.steps if isinstance(step, Loop)]
    own = functions_among(node.target for node in graph.nodes)
    taken = {*exported, *_OWN, *keyword.kwlist, *(function.printed for function in own)}
    reserved = {*taken, *dir(builtins)}
    axes = tuple(name.upper() for name in text.grid.names)
    arguments = _argument_names(graph, {*taken, *axes})
    alike = {step.function: [other for other in loops if other.function == step.function] for step in loops}
    names = _function_names([steps[0].repeat for steps in alike.values()], {*reserved, *axes, *arguments.values()})
    functions = {key_of(step.repeat): names[key_of(alike[step.function][0].repeat)] for step in loops}
    reserved |= {*axes, *functions.values()}
    writer = _Writer(graph, decision, axes, arguments, functions, frozenset(reserved), text, variant)
    table = segment_table(graph, program, arguments, {*reserved, *arguments.values()})
    written = [writer.block(program, *steps) for steps in alike.values()]
    written += [writer.segment(program, row) for row in table] or [writer.forward(program)]
    body = [code for code, _ in written]
    if division is not None and division.counts is not None:
        body.append(_counts(division.counts, arguments, axes, frozenset(reserved), text))
    images = any(_LAST in block for block in body)
    more = arguments_of_program(bool(graph.outputs), images, division)
    last = pipeline_ending(graph, program, table, schedule, more) if table else ending(more)
    code = "\n\n\n".join([*body, last])
    outputs = {path: held.layouts for (path, _), held in zip(graph.outputs, program.outputs, strict=True)}
    tables = "\n".join([*_own(own), layout_tables(graph, decision.storage, outputs)])
    head = [f'"""{_title(text)}"""\n', _imports(f"{tables}\n{code}", exported), "", _grid(text.grid, axes), tables]
    source = "\n".join(head) + "\n\n\n" + code + "\n"
    return Emitted(source, tuple(place for _, places in written for place in places), table)


_OWN = (
    "EDGES", "F", "GRID", "INPUTS", "OUTPUTS", "PARAMETERS", "PROGRAM", "SCHEDULE", "SEGMENTS", "counts", "forward", "layer", "p",
    "torch",
)  # fmt: skip  # what the program itself calls so
_LAST = "memory_format=torch.channels_last"


def arguments_of_program(outputs: bool, images: bool, division: EmittedMicrobatches | None = None) -> str:
    """What `Program` is given beside its tables. Where images lie channels last, filters do: their gradients come in this order."""
    more = ", OUTPUTS" * outputs + ", filters=torch.channels_last" * images
    if division is not None:
        more += f", microbatches={division.microbatches}" + ", counts=counts" * (division.counts is not None)
    return more


def ending(more: str) -> str:
    """The program's last lines; `more` are further arguments of `Program`."""
    return f'PROGRAM = Program(GRID, forward, INPUTS, PARAMETERS{more})\nif __name__ == "__main__":\n    main(PROGRAM, __file__)'


@dataclass(frozen=True, slots=True)
class CountsProgram:
    """The counts of a batch: their graph, and the steps that compute them. With a `variant` for any number of rows."""

    graph: Graph
    decision: Decision
    program: LoweredProgram
    variant: Variant | None


@dataclass(frozen=True, slots=True)
class EmittedMicrobatches:
    """Into how many micro-batches a batch is divided, and the counts of the whole batch."""

    microbatches: int
    counts: CountsProgram | None


def _counts(
    counts: CountsProgram, arguments: Mapping[str, str], axes: tuple[str, ...], reserved: frozenset[str], text: Text
) -> str:
    """The function of the counts."""
    names = [node.name for node in counts.graph.nodes]
    nothing = replace(text, seconds=dict.fromkeys(names, 0.0), inside=dict.fromkeys(names, (0.0, 0.0, 0.0)))
    given = {item.value: arguments[item.value] for item in counts.graph.inputs}
    writer = _Writer(counts.graph, counts.decision, axes, given, {}, reserved, nothing, counts.variant)
    return writer.forward(counts.program, "counts")[0]


def _title(text: Text) -> str:
    origin = f" from {text.source}" if text.source else ""
    line = (
        f"{text.title} on grid {text.grid}, compiled by autopar {__version__}{origin}. "
        "Edit freely: `autopar run` executes this file."
    )
    return re.sub(r'["\\\s]', lambda match: "'" if match[0] == '"' else " ", line)  # it stands between quotes


def _imports(code: str, exported: frozenset[str]) -> str:
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)} | {"Grid"}
    names = ", ".join(sorted(used & exported, key=lambda name: (name[0].islower(), name)))
    rows = ["import torch"] if "torch" in used else []
    rows += ["import torch.nn.functional as F"] if "F" in used else []
    line = f"from autopar.runtime import {names}"
    return "\n".join([*rows, line])


def _grid(grid: GridShape, axes: Sequence[str]) -> str:
    cuts = ", ".join(f'"{name}": ({", ".join(map(fraction_text, every))})' for name, every in grid.named_cuts.items())
    line = f'GRID = Grid("{grid}", cuts={{{cuts}}})' if cuts else f'GRID = Grid("{grid}")'
    if not axes:
        return line
    targets = f"({axes[0]},)" if len(axes) == 1 else ", ".join(axes)
    return f"{line}\n{targets} = GRID.axes"


def _own(own: Sequence[Kept]) -> list[str]:
    """The functions of the model's own that the program calls, by the names under which they are found."""
    return [f'{function.printed} = function("{function.module}", "{function.name}")' for function in own]


def _argument_names(graph: Graph, taken: set[str]) -> dict[str, str]:
    """Per input's value what forward calls it: the user's name, or one like it where that means something else."""
    names: dict[str, str] = {}
    for item in graph.inputs:
        text = re.sub(r"\W", "_", item.name)
        preferred = text if text.isidentifier() else f"x{text}"
        names[item.value] = unused(preferred, {*taken, *names.values()})
    return names


def _function_names(repeats: Sequence[Repeat], taken: set[str]) -> dict[str, str]:
    """A name per repeat, by its first call: the list's in the singular, or its owner's where that is a single letter."""
    names: dict[str, str] = {}
    for repeat in repeats:
        parts = re.sub(r"\W", "_", repeat.prefix).split("_") if "." not in repeat.prefix else repeat.prefix.split(".")
        base = parts[-1].rstrip("s") if len(parts[-1]) > 2 else "_".join([*parts[-2:-1], "block"])
        preferred = (f"{base}_block" if base in taken else base) if base.isidentifier() else "block"
        candidates = itertools.chain([preferred], (f"{preferred}_{i}" for i in itertools.count(2)))
        used = {*taken, *names.values()}
        names[key_of(repeat)] = next(name for name in candidates if name not in used)
    return names


@dataclass(frozen=True, slots=True)
class _Writer:
    """Prints functions of one program."""

    graph: Graph
    decision: Decision
    axes: tuple[str, ...]
    arguments: Mapping[str, str]
    functions: Mapping[str, str]
    reserved: frozenset[str]
    text: Text
    variant: Variant | None

    def forward(self, program: LoweredProgram, name: str = "forward") -> tuple[str, list[Place]]:
        """The function of the whole model."""
        paths = {item.value: path_text(item.name) for item in self.graph.parameters}
        style = Style(self.graph, self.axes, paths, self.functions, self.variant)
        storage = self.decision.storage
        arguments = {LocalValue(value, storage[value]): name for value, name in self.arguments.items()}
        known = numbers(program, self.graph)
        outputs = (program.loss, *program.outputs)
        return self.function(name, arguments, program.steps, outputs, style, known, tuple(arguments.values()))

    def segment(self, program: LoweredProgram, row: SegmentRow) -> tuple[str, list[Place]]:
        """The function of a segment."""
        paths = {item.value: path_text(item.name) for item in self.graph.parameters}
        style = Style(self.graph, self.axes, paths, self.functions, self.variant)
        arguments = dict(zip(row.segment.reads, row.arguments, strict=True))
        inputs = tuple(name for held, name in arguments.items() if held.value in self.arguments)
        steps, writes, known = row.segment.steps, row.segment.writes, numbers(program, self.graph)
        return self.function(row.function, arguments, steps, writes, style, known, inputs)

    def block(self, program: LoweredProgram, step: Loop, *others: Loop) -> tuple[str, list[Place]]:
        """The function of a repeated block, in all loops over it; `p` is the block's own namespace."""
        member = f"{step.repeat.prefix}.{step.repeat.members[0]}."
        inside = [item for item in self.graph.parameters if item.name.startswith(member)]
        paths = {item.value: path_text(item.name.removeprefix(member)) for item in inside}
        style = Style(self.graph, self.axes, paths, self.functions, self.variant)
        arguments: dict[LocalValue, str] = {}
        for held in step.entries:
            arguments[held] = unused(re.sub(r"_\d+$", "", held.value), {*arguments.values(), *self.reserved})
        name = self.functions[key_of(step.repeat)]
        known = numbers(program, self.graph, step, *others)
        return self.function(name, arguments, step.body, step.outputs, style, known)

    def function(
        self,
        name: str,
        arguments: Mapping[LocalValue, str],
        steps: Sequence[Step],
        outputs: Sequence[LocalValue],
        style: Style,
        known: Numbers,
        inputs: Sequence[str] = (),
    ) -> tuple[str, list[Place]]:
        """One function: its lines with comments, and the return; and where in it the `known` steps are.

        `inputs` are those of its arguments that the user passes.
        """
        body = lines(steps, outputs, style)
        bases = {item.value: _base(item.name) for item in self.graph.parameters}
        named = naming.assign(body, arguments, outputs, bases, self.reserved)

        def names(held: LocalValue) -> Expr:
            return Expr(named[held]) if held in named else expression(style.parameters[held.value])

        returned = ", ".join(str(names(held)) for held in outputs)
        rows = [row for line in body for row in self._rows(line, names, returned if line is body[-1] else "")]
        rows = [*_images_first(inputs, rows), *rows]  # other arguments come from convolutions already
        if not rows or not rows[-1][0].startswith("    return "):
            rows.append((f"    return {returned}", ""))
        code = "\n".join([f"def {name}({', '.join(['p', *arguments.values()])}):", *_with_comments(rows)])
        return code, places(name, body, names, known)

    def _rows(self, line: Line, names: Names, returned: str) -> list[tuple[str, str]]:
        """The line's statements with their comments."""
        text = line.text(names)
        targets = ", ".join("_" if held is None else str(names(held)) for held in line.writes)
        if isinstance(line.steps[-1], Loop) or not targets:
            return [("    " + row, "") for row in text.split("\n")]
        statement = f"    return {text}" if targets == returned else f"    {targets} = {text}"
        return [(statement, self._comment(line))]

    def _comment(self, line: Line) -> str:
        """Source line, split and cost of the line's heaviest call; what the line exchanges."""
        runs = [step for step in line.steps if isinstance(step, Run)]
        parts = []
        if runs:
            main = max(runs, key=lambda run: self.text.seconds[run.annotated.node.name])
            seconds = sum(self.text.seconds[run.annotated.node.name] for run in runs)
            if seconds > 0:
                parts = [main.annotated.node.source, split_text(main, self.text.grid), milliseconds(seconds)]
        converted = [step.conversion for step in line.steps if isinstance(step, Convert)]
        amounts = [(conversion.bytes_forward, conversion.bytes_adjoint, conversion.seconds) for conversion in converted]
        amounts += [self.text.inside[run.annotated.node.name] for run in runs]
        exchanged = exchange_text(*map(sum, zip(*amounts, strict=True)))
        return ", ".join(part for part in (*parts, exchanged) if part)


def _images_first(arguments: Iterable[str], rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Images that a convolution reads are put into the order of memory in which oneDNN works; what is computed from them
    keeps it, and no convolution has to reorder its operands again (docs/results.md).
    """
    read = [name for name in arguments if any(f"F.conv2d({name}, " in statement for statement, _ in rows)]
    return [
        (
            f"    {name} = {name}.contiguous({_LAST})",
            "the order in which convolutions are fast",
        )
        for name in read
    ]


def _with_comments(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Statements with their comments behind them in one column, or above where the line would be too wide."""
    column = min(_COLUMN, max((len(statement) for statement, comment in rows if comment), default=0))
    commented: list[str] = []
    for statement, comment in rows:
        candidates = [f"{statement:<{column}}  # {comment}", f"{statement}  # {comment}"] if comment else [statement]
        whole = next((text for text in candidates if len(text) <= _WIDEST), "")
        commented += [whole] if whole else [f"    # {comment}", statement]
    return commented


def split_text(run: Run, grid: GridShape) -> str:
    """What a call does per axis: ``split n over model``."""
    cuts = [
        f"{choice.letter} over {axis}"
        for choice, axis in zip(run.strategy, grid.names, strict=True)
        if choice.mode == "split"
    ]
    return "split " + ", ".join(cuts) if cuts else "whole"


def exchange_text(forward: float, back: float, seconds: float) -> str:
    """What is moved per rank, forward and back, and how long that takes."""
    ways = [f"{bytes_text(size)}{way}" for size, way in ((forward, ""), (back, " back")) if size]
    return f"{' + '.join(ways)} {milliseconds(seconds)}" if ways else ""


def milliseconds(seconds: float) -> str:
    """Seconds for people: ``0.41 ms``."""
    return f"{seconds * 1e3:.2g} ms" if seconds < 0.0995 else f"{seconds * 1e3:.0f} ms"


def _base(name: str) -> str:
    """What a variable that holds a converted parameter is called: the end of the parameter's name, numbers left out."""
    parts = [re.sub(r"\W", "_", part) for part in name.split(".") if not part.isdigit()]
    text = "_".join(parts[-2:])
    return text if text.isidentifier() else f"x{text}"
