"""State that forward keeps in Python: a counter, a tensor of the last call, a list that grows. A graph knows nothing of it.

Where forward changed an attribute (`autopar.capture.state.attributes`), it is rehearsed (`autopar.capture.state.rehearsal`).
It may keep what it likes as long as it computes the same in every call, carries no tensor over, and what goes on changing is
read by nothing but its own update: a log, a count, the last attention map. Anything else would be frozen as it was when
captured, and is refused.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import dis
import linecache
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from torch import nn

from autopar.capture.diagnostics.source_lines import TORCH
from autopar.capture.state.attributes import Owned, changed, restore_shared, state_of
from autopar.capture.state.rehearsal import Rehearsal, rehearse
from autopar.errors import CaptureError, refusal

_RULE = "one program serves all steps, so what forward computes must not depend on what an earlier call left in Python"
_FIX = (
    "keep it in a buffer (register_buffer), a tensor that is written with add_ or copy_; or set it outside of forward, and "
    "compile again when it changes"
)
_ADDING = frozenset({"append", "appendleft", "extend", "add", "update", "clear"})
_RUNS = 3


def check_state(
    module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], names: set[str], caches: set[str]
) -> None:
    """Raise CaptureError unless forward, which changed what these names hold and filled these buffers, computes the same
    in every call.
    """
    names = names | {name.rpartition(".")[2] for name in caches}
    states = [state_of(module)]
    moving: Owned = {}
    reads: set[tuple[str, CodeLine]] = set()

    def after() -> None:
        moving.clear()
        moving.update(changed(states[-1]))
        states.append(state_of(module))

    try:
        with contextlib.ExitStack() as stack:  # from the second call on, it is seen who reads what goes on changing
            watch = partial(stack.enter_context, _watched(moving, reads))
            first = rehearse(module, args, kwargs, 1, lambda: None, lambda: None, caches) if caches else Rehearsal()
            seen = rehearse(module, args, kwargs, _RUNS, after, watch, caches, first.written)
    except Exception as error:  # forward is the user's: its second call may meet what the first has left
        raise _refused(Rehearsal(), names, f"a second call stops with {type(error).__name__}: {error}") from error
    finally:
        restore_shared(states[0])
    if seen.unlike:
        fault = "it is filled with what follows from inputs, parameters or other buffers that change"
        raise _refused(seen, {name.rpartition(".")[2] for name in seen.unlike}, fault)
    if seen.written:
        names = {name.rpartition(".")[2] for name in seen.written}
        raise _refused(seen, names, "a later call writes to it, the first does not")
    if seen.carried:
        raise _refused(seen, names, "a later call reads tensors that an earlier one has left in an attribute")
    if any(calls != seen.calls[0] for calls in seen.calls):
        raise _refused(seen, names, "the second call computes something else than the first")
    shared = {name for (_, name), owner in moving.items() if isinstance(owner, type | ModuleType)}
    reads |= {(name, line) for name in shared for line in _lines(seen, name, _reads)}
    read = {name for name, line in reads if name in {moved for _, moved in moving} and not only_updates(line, name)}
    if read:
        raise _refused(seen, read, "it goes on changing, and forward reads it")


@contextlib.contextmanager
def _watched(places: Owned, reads: set[tuple[str, CodeLine]]) -> Iterator[None]:
    """While active, lines that read one of these attributes of an object are added to `reads`."""
    watched = frozenset(places)
    kinds = {type(owner) for owner in places.values() if not isinstance(owner, type | ModuleType)}

    def watching(get: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
        def read(self: object, name: str) -> Any:  # noqa: ANN401 (whatever the attribute holds)
            if (id(self), name) in watched:
                frame = sys._getframe(1)
                reads.add((name, _line(frame.f_code.co_filename, frame.f_lineno)))
            return get(self, name)

        return read

    before = {kind: kind.__dict__.get("__getattribute__") for kind in kinds}
    for kind in kinds:
        kind.__getattribute__ = watching(kind.__getattribute__)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for kind, get in before.items():
            if get is None:
                del kind.__getattribute__
            else:
                kind.__getattribute__ = get  # type: ignore[method-assign]


def _refused(seen: Rehearsal, names: Iterable[str], fault: str) -> CaptureError:
    lines = [line for name in sorted(names) for line in _lines(seen, name, _writes)]
    where = f"{Path(lines[0].file).name}:{lines[0].number}: `{lines[0].text}`" if lines else "forward"
    kept = ", ".join(sorted(names))
    return CaptureError(refusal(where, f"forward keeps state in Python ({kept}): {fault}", _RULE, fix=_FIX))


@dataclass(frozen=True, slots=True, order=True)
class CodeLine:
    """A line of code that ran."""

    file: str
    number: int
    text: str


def _lines(seen: Rehearsal, name: str, does: Callable[[dis.Instruction, CodeLine, str], bool]) -> list[CodeLine]:
    """The lines of code that ran, torch's own left out, on which an instruction does what is wanted with a name."""
    numbers = set()
    for code in seen.codes:
        if not code.co_filename.startswith(TORCH) and name in (*code.co_names, *code.co_consts, *code.co_freevars):
            numbers |= {line for instruction, line in _instructions(code) if does(instruction, line, name)}
    return sorted(numbers)


def _instructions(code: CodeType) -> Iterator[tuple[dis.Instruction, CodeLine]]:
    for instruction in dis.get_instructions(code):
        number = instruction.positions.lineno if instruction.positions else None
        if number is not None:
            yield instruction, _line(code.co_filename, number)


def _line(file: str, number: int) -> CodeLine:
    return CodeLine(file, number, linecache.getline(file, number).strip())


def _reads(instruction: dis.Instruction, line: CodeLine, name: str) -> bool:
    builtin = instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and hasattr(builtins, name)
    return instruction.argval == name and instruction.opname.startswith("LOAD_") and not builtin


def _writes(instruction: dis.Instruction, line: CodeLine, name: str) -> bool:
    stores = instruction.opname.startswith("STORE_") or instruction.opname == "LOAD_CONST"
    return instruction.argval == name and (stores or only_updates(line, name) or ".data" in line.text)


def only_updates(line: CodeLine, name: str) -> bool:
    """Whether a statement reads `name` for nothing but to update it.

    >>> [only_updates(Line("", 1, text), "n") for text in ("self.n += 1", "self.n = (self.n + 1) % 5", "x = self.n = self.n + 1")]
    [True, True, False]
    >>> [only_updates(Line("", 1, text), "log") for text in ("self.log.append(x)", "self.log['h'] = x", "y = self.log[0]")]
    [True, True, False]
    """
    try:
        (statement,) = ast.parse(line.text).body
    except (SyntaxError, ValueError):
        return False
    if isinstance(statement, ast.AugAssign):
        return _is(statement.target, name) and not _within([statement.value], name)
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        if isinstance(target, ast.Subscript):
            return _is(target.value, name) and not _within([statement.value, target.slice], name)
        return _is(target, name) and all(isinstance(part, _ARITHMETIC) for part in ast.walk(statement.value))
    call = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
        return call.func.attr in _ADDING and _is(call.func.value, name) and not _within(call.args, name)
    return False


_ARITHMETIC = (
    ast.BinOp,
    ast.UnaryOp,
    ast.operator,
    ast.unaryop,
    ast.Constant,
    ast.Attribute,
    ast.Name,
    ast.expr_context,
)


def _is(node: ast.AST, name: str) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == name) or (isinstance(node, ast.Name) and node.id == name)


def _within(parts: Sequence[ast.AST], name: str) -> bool:
    return any(_is(node, name) for part in parts for node in ast.walk(part))
