"""What a model does for any number of rows: forward traced once more with a symbol n for the rows of its batch.

torch.export notes every relation of n that it relied on (guards), and every number that follows n as an expression. The
program that is printed multiplies n by whole numbers (`autopar.codegen.symbolic_batch`). So it computes what the model does

    for as many rows as the guards allow,
    if each expression that reaches a call, or is the extent of a tensor, is a whole multiple of 1, n or n^2,
    and if with n replaced by B the trace is that for B rows, call by call.

A symbol stands for 2 rows or more: one row is traced by itself, and compared with the trace at n = 1.
"""

from __future__ import annotations

import builtins
import contextlib
import itertools
import linecache
import operator
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.fx.experimental import symbolic_shapes
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.functions import IntTrueDiv, ToFloat

from autopar.capture.diagnostics.source_lines import OURS, TORCH, Frame, node_line, user_files
from autopar.capture.tracing.regions import graph_modules
from autopar.capture.validity.row_guards import Guard, N, Unproved, sizes
from autopar.ir.batch_sizes import Sizes

_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range")
_STRIDES = (torch.ops.aten.sym_stride.int, torch.ops.aten.sym_storage_offset.default)
_WHOLE = 2**63 - 1  # where a slice ends that has no end


@dataclass(frozen=True, slots=True)
class Symbolic:
    """A trace for n rows, the names of the `inputs` that have them, and the numbers n for which it holds."""

    program: ExportedProgram
    inputs: tuple[str, ...]
    sizes: Sizes
    files: frozenset[str]  # those of the model

    def differs(self, program: ExportedProgram, rows: int) -> str:
        """The first line that a trace for so many rows does not share with this one; empty where there is none."""
        alike = not (_minds_copies(self.program) or _minds_copies(program))
        here, there = list(_calls(self.program, rows, alike)), list(_calls(program, rows, alike))
        for mine, other in zip(here, there, strict=False):
            if mine[1:] != other[1:]:
                return node_line(other[0], self.files) or node_line(mine[0], self.files) or str(mine[1])
        return "" if len(here) == len(there) else "its end"

    def at(self, rows: int) -> ExportedProgram:
        """The trace, its inputs with so many rows: what is computed from it has no symbol any more."""
        _without_copies(self.program.graph_module)
        _with_strides(self.program, rows)
        for node in self.program.graph.find_nodes(op="placeholder"):
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor) and _symbolic(value):
                shape, strides = (tuple(_number(n, rows) for n in lengths) for lengths in (value.shape, value.stride()))
                with value.fake_mode:  # type: ignore[attr-defined]
                    node.meta["val"] = torch.empty_strided(shape, strides, dtype=value.dtype, device=value.device)
        return self.program


class _Torch:
    """All files of torch, and ours, as a set."""

    def __contains__(self, file: str) -> bool:
        return file.startswith((TORCH, OURS))


@contextlib.contextmanager
def symbols() -> Iterator[None]:
    """While active, what torch assumes of a symbol is noted with the line of the model that made it do so; and ``len`` of a
    tensor is one where its rows are, which Python itself would make a number of.
    """
    files, length = symbolic_shapes.uninteresting_files, builtins.len

    def rows(value: Any) -> Any:  # noqa: ANN401 (what len takes)
        has = isinstance(value, torch.Tensor) and value.dim() and isinstance(value.shape[0], torch.SymInt)
        return value.shape[0] if has else length(value)

    symbolic_shapes.uninteresting_files = _Torch  # type: ignore[assignment]
    builtins.len = rows
    try:
        yield
    finally:
        symbolic_shapes.uninteresting_files, builtins.len = files, length


def symbolic(program: ExportedProgram, module: nn.Module, positional: tuple[str, ...]) -> Symbolic:
    """What a trace with symbols says. Raises Unproved where that is not enough."""
    files = user_files(module)
    env = _environment(program)
    guards = [] if env is None else [_guard(guard) for guard in env.guards]
    inputs = tuple(_inputs(program, positional))
    if env is None or not inputs:
        fixed = next((guard for guard in guards if isinstance(guard.relation, sympy.Eq)), None)
        raise Unproved(f"{fixed.reason} needs the number of rows" if fixed else "no input keeps its rows")
    known: set[sympy.Basic] = set()
    for part in graph_modules(program.graph_module):
        for node in part.graph.nodes:
            _check(node, files, known)
    late = [check.expr for every in env.deferred_runtime_asserts.values() for check in every]
    guards += [Guard(_in_rows(expression), "a check of forward") for expression in late]
    return Symbolic(program, inputs, sizes(guards), files)


def _environment(program: ExportedProgram) -> ShapeEnv | None:
    """Where torch notes what it assumes of its symbols."""
    modes = (getattr(node.meta.get("val"), "fake_mode", None) for node in program.graph.find_nodes(op="placeholder"))
    return next((mode.shape_env for mode in modes if mode is not None), None)


def _guard(guard: Any) -> Guard:  # noqa: ANN401 (torch's own record)
    where = guard.sloc.framework_loc
    if not isinstance(where, traceback.FrameSummary):
        return Guard(_in_rows(guard.expr), "forward")
    code = (where.line or linecache.getline(where.filename, where.lineno or 0)).strip()
    frame = Frame(where.filename, where.lineno or 0, code)
    return Guard(_in_rows(guard.expr), frame.text)


def _in_rows(expression: sympy.Basic) -> sympy.Basic:
    """An expression of torch's symbols, which all are the number of rows, in `N`."""
    return sympy.sympify(expression).subs(dict.fromkeys(expression.free_symbols, N))


def _inputs(program: ExportedProgram, positional: tuple[str, ...]) -> Iterator[str]:
    """The inputs whose rows are still a symbol."""
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    names = (*positional, *program.call_spec.in_spec.child(1).context)
    for name, spec in zip(names, specs, strict=True):
        value = None if isinstance(spec.arg, ConstantArgument) else nodes[spec.arg.name].meta.get("val")
        if isinstance(value, torch.Tensor) and _symbolic(value):
            yield name


def _symbolic(value: torch.Tensor) -> bool:
    return any(isinstance(n, torch.SymInt) and not n.node.expr.is_number for n in value.shape)


def _check(node: fx.Node, files: frozenset[str], known: set[sympy.Basic]) -> None:
    """Raise Unproved where a number of a call, or an extent of its result, is no multiple of the rows; `known` ones are."""
    if node.op != "call_function" or _is_number(node):
        return
    values = node.meta.get("val")
    results = values if isinstance(values, list | tuple) else [values]
    extents = [n for result in results if isinstance(result, torch.Tensor) for n in result.shape]
    numbers = [operand.meta["val"] for operand in node.all_input_nodes if _is_number(operand)]
    for number in (*numbers, *extents):
        expression = sympy.Integer(0) if isinstance(number, int | float) else number.node.expr
        if expression not in known and not _is_multiple(expression):
            said = sympy.sstr(_in_rows(expression))
            raise Unproved(f"{node_line(node, files) or node.target} makes {said} of n rows")
        known.add(expression)


def _is_number(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool | int | float)


def _is_multiple(expression: sympy.Basic) -> bool:
    if not isinstance(expression, sympy.Expr):  # a truth value
        return False
    plain = _in_rows(expression).replace(ToFloat, lambda inner: inner).replace(IntTrueDiv, operator.truediv)
    factor, rest = sympy.nsimplify(plain).as_coeff_Mul()
    return bool(factor.is_Integer) and rest in (1, N, N**2)


def _number(value: object, rows: int) -> Any:  # noqa: ANN401 (a number, as it was one)
    if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return "nan" if value != value else value  # which is not equal to itself
    number = _in_rows(value.node.expr).subs(N, rows)
    return int(number) if number.is_Integer else number == sympy.true if number.is_Boolean else float(number)


def _calls(program: ExportedProgram, rows: int, alike: bool) -> Iterator[tuple[Any, ...]]:
    """Every call, its target, arguments and shapes: operands by their places, numbers as they are for so many rows.

    Where it makes no difference (`alike`), a copy is what it was copied from.
    """
    for part in graph_modules(program.graph_module):
        places: dict[fx.Node, object] = {}
        count = itertools.count()
        for node in part.graph.nodes:
            if node.op == "call_function" and any(word in str(node.target) for word in _CHECKS):
                continue
            if _is_number(node):
                places[node] = _number(node.meta["val"], rows)
                continue
            if source := _itself(node) or _expanded_to_itself(node, rows) or (_copied(node) if alike else None):
                places[node] = places[source]
                continue
            places[node] = ("operand", next(count))
            if node.op == "call_function":
                yield node, node.target, *_plain(_arguments(node), places, rows), _shapes(node, rows)


def _arguments(node: fx.Node) -> tuple[object, object]:
    """Of a region, without the numbers that it is handed: for a known number of rows they stand inside."""
    if not isinstance(node.target, torch._ops.HigherOrderOperator):
        return node.args, node.kwargs
    return tuple(arg for arg in node.args if not (isinstance(arg, fx.Node) and _is_number(arg))), node.kwargs


def _shapes(node: fx.Node, rows: int) -> list[tuple[int, ...]]:
    value = node.meta.get("val")
    tensors = value if isinstance(value, list | tuple) else [value]
    return [tuple(_number(n, rows) for n in tensor.shape) for tensor in tensors if isinstance(tensor, torch.Tensor)]


def _plain(value: Any, places: Mapping[fx.Node, object], rows: int) -> Any:  # noqa: ANN401 (nested as arguments are)
    def plain(leaf: Any) -> Any:  # noqa: ANN401
        return places.get(leaf, leaf.target) if isinstance(leaf, fx.Node) else _number(leaf, rows)

    return fx.node.map_aggregate(value, plain)


def _itself(node: fx.Node) -> fx.Node | None:
    """What a call gives back as it is: with a symbol for an extent, torch keeps a slice of all of the dim, else an alias."""
    if not str(node.target).startswith(("aten.slice.Tensor", "aten.alias.default")):
        return None
    source, bounds = node.args[0], node.args[2:]
    whole = not node.kwargs and bounds in ((), (0, _WHOLE), (None, _WHOLE), (0, _WHOLE, 1))
    return source if whole and isinstance(source, fx.Node) else None


def _expanded_to_itself(node: fx.Node, rows: int) -> fx.Node | None:
    """What an expansion gives back as it is: models leave one to the batch out where the batch is one row."""
    source = node.args[0] if str(node.target) == "aten.expand.default" else None
    return source if isinstance(source, fx.Node) and _shapes(node, rows) == _shapes(source, rows) else None


def _with_strides(program: ExportedProgram, rows: int) -> None:
    """Strides as numbers: asked of a tensor again, they are those of the program's, which may lie otherwise."""
    for part in graph_modules(program.graph_module):
        strides = {node: _number(node.meta["val"], rows) for node in part.graph.nodes if node.target in _STRIDES}
        for user in {user for node in strides for user in node.users}:
            user.args = fx.map_arg(user.args, lambda operand: strides.get(operand, operand))  # noqa: B023 (called here)


def _copied(node: fx.Node) -> fx.Node | None:
    """What is put in order: of one row much lies in order, and then torch makes no call."""
    source = node.args[0] if str(node.target) == "aten.contiguous.default" else None
    return source if isinstance(source, fx.Node) else None


def _minds_copies(program: ExportedProgram) -> bool:
    """Whether something is written in place, or read by strides: it then makes a difference what is a copy and what is not."""
    targets = {
        node.target
        for part in graph_modules(program.graph_module)
        for node in part.graph.nodes
        if node.op == "call_function"
    }
    return any(
        "as_strided" in str(target) or getattr(getattr(target, "_schema", None), "is_mutable", False)
        for target in targets
    )


def _without_copies(root: fx.GraphModule) -> None:
    for part in graph_modules(root):
        for node in list(part.graph.nodes):
            if source := _itself(node):
                node.replace_all_uses_with(source)
                part.graph.erase_node(node)
        part.recompile()
