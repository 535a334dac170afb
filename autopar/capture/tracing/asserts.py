"""``assert`` about the numbers in a tensor: a program does not make such a check, as Python itself does not under ``-O``.

    assert not h.isnan().any()          left out, and told
    assert h.shape[1] == self.width     made while forward is traced

Which asserts look at numbers shows when forward is traced: it stops in one. Then it is traced once more with the code that
Python compiles without asserts for this very function.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import Any

from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from autopar.capture.diagnostics.logs import LOG
from autopar.capture.diagnostics.refusals import NumberTaken
from autopar.capture.diagnostics.source_lines import OURS, TORCH, Frame, chain
from autopar.capture.tracing.patches import patched


@dataclass(frozen=True, slots=True)
class Checking:
    """A function, and its code without asserts."""

    function: FunctionType
    without: CodeType


def checking(error: BaseException) -> Checking | None:
    """The function in whose ``assert`` forward asked for the numbers in a tensor; None where it asked elsewhere."""
    for cause in chain(error):
        if isinstance(cause, NumberTaken | GuardOnDataDependentSymNode):
            at = _innermost_assert(cause)
            return _without_asserts(at.tb_frame, at.tb_lineno) if at else None
    return None


def unasserted(check: Checking) -> AbstractContextManager[None]:
    """While active, the function has no asserts."""
    return patched([(check.function, "__code__", check.without)])


def _innermost_assert(error: BaseException) -> TracebackType | None:
    """The innermost ``assert`` of the user's on the way to an exception."""
    innermost, at = None, error.__traceback__
    while at is not None:
        file = at.tb_frame.f_code.co_filename
        if Path(file).is_file() and not file.startswith((TORCH, OURS)) and _in_assert(file, at.tb_lineno):
            innermost = at
        at = at.tb_next
    return innermost


def _in_assert(file: str, line: int) -> bool:
    tree = _tree(file)
    asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)] if tree else []
    return any(node.lineno <= line <= (node.end_lineno or node.lineno) for node in asserts)


def _without_asserts(frame: FrameType, line: int) -> Checking | None:
    """What the code of a frame, or the function around it, is without asserts; None for one that its name does not lead to."""
    file = frame.f_code.co_filename
    function = _by_name(frame.f_globals, frame.f_code.co_qualname.split(".<locals>")[0])
    if function is None or function.__code__.co_filename != file:
        return None
    code = function.__code__
    bare = next((other for other in _codes(file) if _place(other) == _place(code)), None)
    if bare is None or bare.co_freevars != code.co_freevars:
        return None
    said = Frame(file, line, linecache.getline(file, line).strip())
    LOG.warning(
        "%s: `%s`: the program does not check this, nor other asserts of %s", said.place, said.code, code.co_name
    )
    return Checking(function, bare)


def _by_name(names: dict[str, Any], path: str) -> FunctionType | None:
    """The function of a qualified name, under its decorators."""
    first, *rest = path.split(".")
    value: Any = names.get(first)
    for name in rest:
        value = getattr(value, name, None)
    value = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else None
    return value if isinstance(value, FunctionType) else None


def _place(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


@functools.cache
def _tree(file: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(file)), file)
    except SyntaxError:
        return None


def _codes(file: str) -> Iterator[CodeType]:
    """All code of a file, compiled without asserts."""
    tree = _tree(file)
    waiting = [compile(tree, file, "exec", dont_inherit=True, optimize=1)] if tree else []
    while waiting:
        code = waiting.pop()
        yield code
        waiting.extend(const for const in code.co_consts if isinstance(const, CodeType))
