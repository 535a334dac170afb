"""From the steps of one function to lines of Python: short pure calls are written inside the call that reads them.

A `Line` knows what it writes and reads and how to print itself once its variables have names. Two lines become one where the first
has a single reader, the result stays short, and no line holds more than one heavy operator.
"""

from __future__ import annotations

import ast
import keyword
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from autopar.codegen.conversion_calls import conversion_text
from autopar.codegen.local_extents import local_of
from autopar.codegen.steps import Convert, LocalValue, Loop, Run, Step, Update, running
from autopar.codegen.symbolic_batch import Variant, conversion_for, merged, run_for
from autopar.costmodel.redistribution import Conversion
from autopar.ir.graph import Graph, Ref
from autopar.ops.broken_records import failing
from autopar.ops.record.emit_context import emit_context
from autopar.ops.record.overloads import gives_list
from autopar.ops.record.printing import Expr, atom
from autopar.partitioner.formulation.repeated_blocks import Repeat

Names = Callable[[LocalValue], Expr]

_WIDTH = 88  # a line that inlining would make longer stays two lines
_HEAVY = ("matmul", "conv", "attention", "reduce")
_COUNTER = "num_batches_tracked"  # a batch norm's buffer
MARK = "_step"  # a call of this name marks a step's text; no program calls it
_CALL = (
    "batch",
    "last",
    "share",
    "training",
)  # what a namespace says of the call: parameters of these names are read as items


@dataclass(frozen=True, slots=True)
class Line:
    """One statement: the variables it writes (None for an unused result) and reads, its text, and the steps it carries out.

    `marked` is the text with a mark around what each step prints (`autopar.codegen.source_map`), None where no step has a place.
    """

    writes: tuple[LocalValue | None, ...]
    reads: tuple[LocalValue, ...]
    text: Callable[[Names], str]
    steps: tuple[Step, ...]
    marked: Callable[[Names], str] | None = None

    @property
    def heavy(self) -> int:
        """Number of operators worth a line of their own."""
        return sum(isinstance(step, Run) and step.annotated.op.work in _HEAVY for step in self.steps)

    @property
    def random(self) -> bool:
        """Whether it draws random numbers."""
        return any(isinstance(step, Run) and step.annotated.op.random for step in self.steps)

    @property
    def movable(self) -> bool:
        """Whether the line is one expression that may stand inside another."""
        return len(self.writes) == 1 and all(isinstance(step, Run | Convert) for step in self.steps)


@dataclass(frozen=True, slots=True)
class Style:
    """What printing a function needs to know: the graph, the axes' names in the program, and how a parameter is written.

    With a `variant`, numbers that follow the batch are written ``p.batch``.
    """

    graph: Graph
    axes: tuple[str, ...]
    parameters: Mapping[str, str]  # value -> expression, as "p.c_fc.weight"
    functions: Mapping[str, str]  # first call of a repeat -> name of the function of its blocks
    variant: Variant | None = None


def lines(steps: Sequence[Step], outputs: Sequence[LocalValue], style: Style) -> list[Line]:
    """The lines of one function, inlined."""
    plain = [line for step in _in_place(steps) if (line := _line(step, style)) is not None]
    return _inline(plain, outputs, style)


def _in_place(steps: Sequence[Step]) -> list[Step]:
    """The steps where the running statistics that a batch norm makes are the tensors that it was given: it changes those."""
    same: dict[LocalValue, LocalValue] = {}
    rewritten: list[Step] = []
    for step in steps:
        if isinstance(step, Run):
            operands = {held.value: same.get(held, held) for held in step.reads}
            step = replace(step, reads=tuple(same.get(held, held) for held in step.reads))
            for written, name in zip(step.writes[1:], running(step), strict=False):
                if written is not None:
                    same[written] = operands[name]
        elif isinstance(step, Convert | Update):
            step = replace(step, reads=same.get(step.reads, step.reads))
        rewritten.append(step)
    return rewritten


def _line(step: Step, style: Style) -> Line | None:
    if isinstance(step, Run):
        return _marked(Line(_kept(step), step.reads, partial(_run_text, step, style), (step,)))
    if isinstance(step, Convert):
        return _marked(Line((step.writes,), (step.reads,), partial(_convert_text, step, style), (step,)))
    if isinstance(step, Loop):
        return Line(step.writes, step.reads, partial(_loop_text, step, style), (step,))
    return _update_line(step, style)


def label(step: Step) -> str:
    """What a step is called in marks: within a function no other step is called so."""
    if isinstance(step, Run):
        return f"run {step.annotated.node.name}"
    if isinstance(step, Convert):
        return f"convert {step.writes.value} {' '.join(map(str, step.writes.layouts))}"
    return f"update {step.buffer if isinstance(step, Update) else ''}"


def _marked(line: Line) -> Line:
    return replace(line, marked=lambda names: f"{MARK}({label(line.steps[0])!r}, {line.text(names)})")


def _kept(step: Run) -> tuple[LocalValue | None, ...]:
    """The results that the line writes: those of a batch norm's running statistics are stored by the call itself."""
    return step.writes[:1] if step.annotated.node.target == "autopar.batch_norm" else step.writes


def _update_line(step: Update, style: Style) -> Line | None:
    """None where the buffer was changed in place."""
    if step.reads.value == step.stored:
        return None
    node = style.graph.producers()[step.reads.value]
    once = "" if style.graph.division is None else " if p.last else None"
    target = style.parameters[step.stored]
    if any(item.value == step.stored and item.kind == "parameter" for item in style.graph.parameters):
        target += ".data"  # a leaf: autograd does not see the write
    if node.target == "aten.add.Tensor" and node.args[0] == Ref(step.stored) and isinstance(node.args[1], int):
        training = node.args[1] == 1 and step.buffer.endswith(_COUNTER)  # counted in training only
        # the sum itself is printed nowhere unless it has another reader
        counted = f"{target}.add_({'p.training' if training else node.args[1]}){once}"
        return _marked(Line((), (step.reads,), lambda names: counted, (step,)))

    def text(names: Names) -> str:
        return f"{target}.copy_({names(step.reads)}){once}"

    return Line((), (step.reads,), text, (step,), marked=text)


def _convert_text(step: Convert, style: Style, names: Names) -> str:
    def text(conversion: Conversion, graph: Graph) -> str:
        return conversion_text(conversion, names(step.reads), graph.values[step.reads.value].shape, style.axes)

    printed, variant = text(step.conversion, style.graph), style.variant
    if variant is None:
        return printed
    other = text(conversion_for(variant, step.reads.value, step.conversion), variant.graph)
    return merged(printed, other, variant.rows, variant.other)


def _run_text(step: Run, style: Style, names: Names) -> str:
    printed, variant = _call_text(step, style, names), style.variant
    if variant is None:
        return printed
    node = step.annotated.node
    annotated, strategy = run_for(variant, step.annotated, step.strategy)
    other = _call_text(replace(step, annotated=annotated, strategy=strategy), style, names)
    place = f"{node.source}: `{node.code}`" if node.source else node.name
    return merged(printed, other, variant.rows, variant.other, place)


def _call_text(step: Run, style: Style, names: Names) -> str:
    call, rule, node = step.annotated.call, step.annotated.rule, step.annotated.node
    division = style.graph.division
    drawn = dict(division.drawn).get(node.name) if division is not None else None
    local = replace(local_of(rule, step.strategy, style.axes), batch=drawn)
    with failing(call):
        text = step.annotated.op.emit(emit_context(call, rule, local, map(names, step.reads)))
    return f"{atom(expression(text))}[0]" if len(node.outputs) == 1 and gives_list(node.target) else text


def _loop_text(step: Loop, style: Style, names: Names) -> str:
    """The loop: the carried variables keep their names from round to round, so what goes in is what comes out.

    A single block is called by itself.
    """
    carried = dict(step.carried)
    targets = ", ".join(str(names(held)) for held in step.writes)
    function = style.functions[step.repeat.nodes[0][0].name]
    if len(step.repeat.members) == 1:
        block = path_text(f"{step.repeat.prefix}.{step.repeat.members[0]}")
        return f"{targets} = {_block_call(step, function, [block, *map(names, step.reads)])}"
    arguments = [names(step.writes[carried[i]]) if i in carried else names(held) for i, held in enumerate(step.reads)]
    starts = {str(names(step.writes[output])): str(names(step.reads[entry])) for entry, output in step.carried}
    renamed = {after: before for after, before in starts.items() if after != before}
    first = f"{', '.join(renamed)} = {', '.join(renamed.values())}\n" if renamed else ""
    return f"{first}for layer in {_members(step.repeat)}:\n    {targets} = {_block_call(step, function, ['layer', *arguments])}"


def _block_call(step: Loop, function: str, arguments: Sequence[object]) -> str:
    text = ", ".join(map(str, arguments))
    return f"recompute({function}, {text})" if step.recomputed else f"{function}({text})"


def _members(repeat: Repeat) -> str:
    """The namespaces of the blocks, in the order in which they are called."""
    path = path_text(repeat.prefix)
    numbers = [int(member) for member in repeat.members]
    if repeat.whole and numbers == sorted(set(numbers)):
        return path
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"({path}[i] for i in range({numbers[0]}, {numbers[-1] + 1}))"
    return f"({', '.join(f'{path}[{number}]' for number in numbers)})"


def _inline(plain: list[Line], outputs: Sequence[LocalValue], style: Style) -> list[Line]:
    uses = Counter(held for line in plain for held in line.reads) + Counter(outputs)
    kept: dict[int, Line] = {}
    maker: dict[LocalValue, int] = {}
    for i, line in enumerate(plain):
        width = 0  # of the line, once it is known
        for held in dict.fromkeys(line.reads):
            at = maker.get(held)
            if at is None or uses[held] != 1 or at not in kept or not kept[at].movable:
                continue
            if _changed(plain[at + 1 : i]) & {read.value for read in kept[at].reads}:
                continue  # it would read a buffer's new value
            if kept[at].random and any(other.random for other in (line, *plain[at + 1 : i])):
                continue  # the order in which numbers are drawn is that of the model
            merged = _merge(kept[at], line, held)
            width = width or _width(line, style)
            if merged is not None and (wider := _width(merged, style)) <= max(_WIDTH, width):
                line, width = merged, wider
                del kept[at]
        kept[i] = line
        maker.update({held: i for held in line.writes if held is not None})
    return [kept[i] for i in sorted(kept)]


def _changed(between: Sequence[Line]) -> set[str]:
    """The values whose tensors these lines change in place."""
    steps = [step for line in between for step in line.steps]
    updated = {step.stored for step in steps if isinstance(step, Update)}
    return updated.union(*(running(step) for step in steps if isinstance(step, Run)))


def _merge(inner: Line, outer: Line, held: LocalValue) -> Line | None:
    if inner.heavy + outer.heavy > 1 or isinstance(outer.steps[-1], Loop):
        return None
    at = outer.reads.index(held)
    reads = (*outer.reads[:at], *inner.reads, *outer.reads[at + 1 :])

    text = _inserted(inner.text, outer.text, held)
    marked = _inserted(inner.marked, outer.marked, held) if inner.marked and outer.marked else None
    return replace(outer, reads=reads, text=text, steps=(*inner.steps, *outer.steps), marked=marked)


def _inserted(inner: Callable[[Names], str], outer: Callable[[Names], str], held: LocalValue) -> Callable[[Names], str]:
    """The outer text with the inner one where it reads `held`."""

    def text(names: Names) -> str:
        inside = expression(inner(names))
        return outer(lambda other: inside if other == held else names(other))

    return text


def _width(line: Line, style: Style) -> int:
    """About how wide the line is printed."""
    return len(line.text(lambda held: plain_name(held, style)))


def plain_name(held: LocalValue, style: Style) -> Expr:
    """A stand-in for a variable's name of about its length."""
    return expression(style.parameters.get(held.value, held.value))


@lru_cache(maxsize=4096)  # a line is looked at again for every line that could take it in
def expression(text: str) -> Expr:
    """Python source as an operand: whether it needs brackets is read off its syntax tree."""
    body = ast.parse(text, mode="eval").body
    return Expr(text, isinstance(body, ast.Name | ast.Attribute | ast.Call | ast.Subscript))


def path_text(name: str) -> str:
    """A dotted name as attribute access on the namespace: ``p.h[0].c_fc.weight``."""
    text = "p"
    for part in name.split("."):
        if part.isdigit():
            text += f"[{part}]"
        elif part.isidentifier() and not keyword.iskeyword(part) and part not in _CALL:
            text += f".{part}"
        else:
            text += f"[{part!r}]"
    return text
