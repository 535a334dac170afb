"""A program's functions with a recorder around the expressions that are to be timed.

    all_sum(F.linear(x, p.w), AXIS0)
    profile.end(profile.begin(0), all_sum(profile.end(profile.begin(1), F.linear(x, p.w)), AXIS0))

`begin` runs before the expression and `end` after it, since arguments are evaluated from left to right; what is computed
stays the same. The expressions are the plan's places, found again by their text, in order; where a program was edited,
as many as are still there. A statement that is no place as a whole is timed as one expression more. Lines and columns stay
what they are, so that messages name them.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autopar.ir.profile import Expression

RECORDER = "__profile__"  # what the recorder is called in the program
_STATEMENTS = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Expr)
Wanted = tuple[str, str]  # function and text of a place


@dataclass(frozen=True, slots=True)
class Instrumented:
    """The functions with recorders, and the expressions by the numbers that the recorders are given."""

    functions: ast.Module
    expressions: tuple[Expression, ...]


def instrument(source: str, places: Sequence[Wanted]) -> Instrumented:
    """The functions of a program, with recorders around its places."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    names = {function.name for function in functions}
    expressions: list[Expression] = []
    for function in functions:
        texts = [(i, _normal(text)) for i, (name, text) in enumerate(places) if name == function.name and text]
        chosen: dict[ast.expr, int | None] = dict(match(function, texts))
        for value in _values(function):
            if not _trivial(value, names):
                chosen.setdefault(value, None)
        numbers = {value: len(expressions) + i for i, value in enumerate(chosen)}
        for value, place in chosen.items():
            expressions.append(Expression(function.name, value.lineno, value.col_offset, ast.unparse(value), place))
        _Wrap(numbers).visit(function)
    module = ast.fix_missing_locations(ast.Module(body=list(functions), type_ignores=[]))
    return Instrumented(module, tuple(expressions))


def match(function: ast.FunctionDef, places: Sequence[tuple[int, str]]) -> dict[ast.expr, int]:
    """The expressions of a function that are the wanted ones, given as number and text in the order of the program.

    Each is the first of its text behind the one before. Where that does not find all, the program was edited, and as
    many are found as the longest common runs of both orders give.
    """
    texts = {text for _, text in places}
    known = [(node, text) for node in _expressions(function) if (text := ast.unparse(node)) in texts]
    numbers: dict[ast.expr, int] = {}
    at = 0
    for number, text in places:
        position = next((i for i in range(at, len(known)) if known[i][1] == text), None)
        if position is None:
            break
        numbers[known[position][0]] = number
        at = position + 1
    else:
        return numbers
    matcher = difflib.SequenceMatcher(None, [text for _, text in places], [text for _, text in known], autojunk=False)
    return {
        known[block.b + i][0]: places[block.a + i][0]
        for block in matcher.get_matching_blocks()
        for i in range(block.size)
    }


def _normal(text: str) -> str:
    """The text as this release of Python writes it."""
    return ast.unparse(ast.parse(text, mode="eval"))


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions in a node that are read, outer ones first."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr) and isinstance(getattr(child, "ctx", None), ast.Load | None):
            yield child
        yield from _expressions(child)


def _values(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """What the statements of a function compute."""
    for node in ast.walk(function):
        if isinstance(node, _STATEMENTS) and node.value is not None:
            yield node.value


def _trivial(value: ast.expr, functions: set[str]) -> bool:
    """Whether an expression computes nothing of its own: names, and calls of functions that are recorded themselves."""
    if isinstance(value, ast.Tuple):
        return all(_trivial(element, functions) for element in value.elts)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        called = value.args[0] if value.func.id == "recompute" and value.args else value.func
        return isinstance(called, ast.Name) and called.id in functions
    return isinstance(value, ast.Name | ast.Constant)


class _Wrap(ast.NodeTransformer):
    def __init__(self, numbers: dict[ast.expr, int]) -> None:
        self._numbers = numbers

    def visit(self, node: ast.AST) -> ast.AST:
        """Put a recorder around a chosen expression, when those inside have theirs."""
        number = self._numbers.get(node) if isinstance(node, ast.expr) else None
        visited: ast.AST = super().visit(node)
        if number is None:
            return visited
        assert isinstance(visited, ast.expr)
        begun = _call("begin", ast.Constant(number))
        return ast.copy_location(_call("end", begun, visited), node)


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    recorder = ast.Name(RECORDER, ast.Load())
    return ast.Call(ast.Attribute(recorder, name, ast.Load()), list(arguments), [])
