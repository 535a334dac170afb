"""Which expression of a program carries out which step: what a profile needs to name what it has timed.

The emitter prints every line twice: as it stands in the program, and with a mark around the text of each step:

    all_sum(F.linear(x, p.fc.weight), AXIS0)
    _step('convert fc ...', all_sum(_step('run fc', F.linear(x, p.fc.weight)), AXIS0))

A place is the expression in a mark, as `ast.unparse` writes it, by the function that it stands in. Places are listed in the
order of the text, an outer expression before what it holds, so that they are found again in a program that has been edited.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from autopar.codegen.statements import MARK, Line, Names, label
from autopar.codegen.steps import Convert, Loop, LoweredProgram, Run, Step, Update
from autopar.ir.graph import Graph
from autopar.ir.plan import Place

Numbers = Mapping[str, tuple[tuple[str, ...], int | None]]  # by label: the calls that it stands for, or the conversion


def numbers(program: LoweredProgram, graph: Graph, *loops: Loop) -> Numbers:
    """What the labels of a function stand for: that of the blocks of these loops, or of the whole model."""
    loop = loops[0] if loops else None
    by_label: dict[str, tuple[tuple[str, ...], int | None]] = {}
    makers = graph.producers()
    for step in program.steps if loop is None else loop.body:
        if isinstance(step, Run):
            by_label[label(step)] = (_calls(step.annotated.node.name, loops), None)
        elif isinstance(step, Update):
            producers = [makers[name].name for name in (step.reads.value,) if name in makers]
            by_label[label(step)] = (tuple(call for name in producers for call in _calls(name, loops)), None)
    return by_label | {label(step): ((), index) for step, index in _conversions(program, loop)}


def _calls(name: str, loops: Sequence[Loop]) -> tuple[str, ...]:
    """The call of the first of the loops in every round of all of them."""
    if not loops:
        return (name,)
    at = [node.name for node in loops[0].repeat.nodes[0]].index(name)
    return tuple(nodes[at].name for loop in loops for nodes in loop.repeat.nodes)


def _conversions(program: LoweredProgram, loop: Loop | None) -> list[tuple[Step, int]]:
    """A function's conversions with their places among `steps.conversions`."""
    conversions: list[tuple[Step, int]] = []
    count = 0
    for step in program.steps:
        for inner in step.body if isinstance(step, Loop) else (step,):
            if isinstance(inner, Convert):
                conversions += [(inner, count)] * ((step is loop) if isinstance(step, Loop) else loop is None)
                count += 1
    return conversions


def places(function: str, lines: Sequence[Line], names: Names, known: Numbers) -> list[Place]:
    """The places of a function's lines."""
    placed: list[Place] = []
    for line in lines:
        if line.marked is None:
            continue
        strip, here = _Strip(), list[Place]()
        strip.visit(ast.parse(line.marked(names)))
        previous: ast.expr | None = None
        for name, expression in reversed(strip.marks):
            calls, conversion = known[name]
            own = not isinstance(expression, ast.Name | ast.Constant) and expression is not previous
            here.append(Place(function, ast.unparse(expression) if own else "", calls, conversion))
            previous = expression
        placed += reversed(here)
    return placed


class _Strip(ast.NodeTransformer):
    """Takes the marks away, and lists them with what they held, outer ones first."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, ast.expr]] = []

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if not (isinstance(node.func, ast.Name) and node.func.id == MARK):
            return self.generic_visit(node)
        said = node.args[0]
        assert isinstance(said, ast.Constant)
        at = len(self.marks)
        self.marks.append((str(said.value), node.args[1]))
        inner: ast.expr = self.visit(node.args[1])
        self.marks[at] = (str(said.value), inner)
        return inner
