"""A trace in which nothing is written, without writes in place as it is: only calls that ATen writes out are written out.

``ExportedProgram.run_decompositions`` runs every trace twice, to find out what is written and what is a view of what. Most
traces tell by their calls that nothing is, and of these only some calls change

    x.to(x.dtype), x.contiguous()      x itself, where they give it back
    x.reshape(n), x.chunk(2)           what they call: a view or a copy, as x lies in memory; a split

each of which is traced by itself, once for all operands that lie alike. Any other trace is torch's.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._export.utils import _is_cia_op, _is_preservable_cia_op
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, TensorArgument
from torch.fx.experimental.proxy_tensor import make_fx

from autopar.capture.diagnostics.source_lines import origin

aten = torch.ops.aten
_SHAPES = (  # of the operators that are written out, those that are so by calls which stay as they are
    aten.view.default,
    aten.type_as.default,
    aten.to.other,
    aten.expand_as.default,
    aten.broadcast_to.default,
    aten.broadcast_tensors.default,
    aten.view_as.default,
    aten.reshape_as.default,
)
_OTHERS = ("aten.lift_fresh", "aten.lift_fresh_copy", "aten.instance_norm", "aten._assert")
_NUMBERS = (int, float, bool)
Table = Mapping[Any, Callable[..., object]]


class _StillWrites(Exception):
    """The trace is left to torch."""


@dataclass(slots=True)
class _Rewriting:
    """A graph that is being written, and what stands in it for each node of the trace: a node, or a number."""

    mode: FakeTensorMode
    table: Table
    again: bool  # whether shapes are computed again, since those of the trace have symbols
    graph: fx.Graph = field(default_factory=fx.Graph)
    copies: dict[fx.Node, Any] = field(default_factory=dict)
    written_out: dict[object, fx.GraphModule] = field(default_factory=dict)
    picked: dict[object, fx.Node] = field(default_factory=dict)  # by the call and the place among its results


def without_writes(program: ExportedProgram, table: Table) -> bool:
    """Whether the trace is written so, in place; where it is not, nothing has changed."""
    nodes = list(program.graph.nodes)
    if not all(_writes_nothing(node, table) for node in nodes):
        return False
    vals = [node.meta.get("val") for node in nodes if node.op == "placeholder"]
    mode = next((val.fake_mode for val in vals if isinstance(val, FakeTensor)), None)
    specs = program.graph_signature.output_specs
    plain = all(spec.kind is OutputKind.USER_OUTPUT and type(spec.arg) is TensorArgument for spec in specs)
    if mode is None or not plain:
        return False
    rewriting = _Rewriting(mode, table, any(_has_symbols(node.meta.get("val")) for node in nodes))
    try:
        with torch.no_grad(), mode:
            for node in nodes:
                rewriting.copies[node] = _rewritten(node, rewriting)
    except _StillWrites:
        return False
    (output,) = rewriting.graph.find_nodes(op="output")
    results = output.args[0]
    if not all(isinstance(result, fx.Node) and result.op == "call_function" for result in results):
        return False
    for spec, result in zip(specs, results, strict=True):
        spec.arg = TensorArgument(result.name)
    rewriting.graph.eliminate_dead_code()
    program.graph_module.graph = rewriting.graph
    return True


def _writes_nothing(node: fx.Node, table: Table) -> bool:
    """Whether a node writes nothing, runs no other graph, and is not written out by us."""
    if node.op in ("placeholder", "output"):
        return True
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return node.op == "call_function" and (target is operator.getitem or _is_number(node.meta.get("val")))
    if target.namespace != "aten" or str(target).startswith(_OTHERS) or target._schema.is_mutable:
        return False
    known = torch.Tag.maybe_aliasing_or_mutating not in target.tags and target is not aten.native_batch_norm.default
    return known and (target not in table or target in _SHAPES)


def _is_number(value: object) -> bool:
    return isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool | int | float | bool)


def _has_symbols(value: object) -> bool:
    tensors = value if isinstance(value, list | tuple) else [value]
    return _is_number(value) or any(
        isinstance(tensor, Tensor) and any(isinstance(n, torch.SymInt) for n in (*tensor.shape, *tensor.stride()))
        for tensor in tensors
    )


def _rewritten(node: fx.Node, to: _Rewriting) -> Any:  # noqa: ANN401 (a node or a number)
    if node.op in ("placeholder", "output"):
        copy = to.graph.node_copy(node, lambda operand: to.copies[operand])
        copy.name = node.name  # that of the program's signature, also where it is one of Python's
        return copy
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda operand: to.copies[operand])
    if node.target is operator.getitem:
        picked = _picked(args, to)
    elif not isinstance(node.target, torch._ops.OpOverload):
        picked = _called(node.target, args, kwargs, to)
    elif node.target in to.table or (_is_cia_op(node.target) and not _is_preservable_cia_op(node.target)):
        return _written_out(node, args, kwargs, to)
    elif to.again or not isinstance(node.meta.get("val"), Tensor | list | tuple):
        picked = _called(node.target, args, kwargs, to)
    else:
        picked = to.graph.call_function(node.target, args, kwargs)
        picked.meta["val"] = node.meta["val"]
    return _with_lines(picked, node)


def _called(target: Any, args: Any, kwargs: Any, to: _Rewriting) -> Any:  # noqa: ANN401 (as fx takes them)
    """A call with the result that it has on these operands; the result itself where it is a number."""
    vals: Any = fx.map_arg((args, kwargs), lambda operand: operand.meta["val"])
    value = target(*vals[0], **vals[1])
    if type(value) in _NUMBERS:
        return value
    tensors = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(tensor, Tensor) and not _has_symbols(tensor) for tensor in tensors):
        raise _StillWrites
    result = to.graph.call_function(target, args, kwargs)
    result.meta["val"] = value
    return result


def _picked(args: Any, to: _Rewriting) -> Any:  # noqa: ANN401 (a node, or what stands for its results, and a place)
    """One result of a call, which is picked once."""
    call, place = args
    if isinstance(call, list | tuple):
        return call[place]
    if (call, place) not in to.picked:
        to.picked[call, place] = _called(operator.getitem, (call, place), {}, to)
    return to.picked[call, place]


def _with_lines(result: Any, node: fx.Node) -> Any:  # noqa: ANN401 (a node or a number)
    if isinstance(result, fx.Node):
        result.meta |= origin(node)
    return result


def _written_out(node: fx.Node, args: Any, kwargs: Any, to: _Rewriting) -> Any:  # noqa: ANN401 (as fx takes them)
    """The calls that a call stands for, of which the last one is the result; its operand where it stands for none."""
    operands: list[fx.Node] = []
    places = fx.map_arg((args, kwargs), lambda operand: operands.append(operand) or ("operand", len(operands)))  # type: ignore[func-returns-value]
    vals = [operand.meta["val"] for operand in operands]
    key = (node.target, repr(places), *((val.shape, val.stride(), val.storage_offset(), val.dtype) for val in vals))
    if key not in to.written_out:
        to.written_out[key] = _trace(node.target, args, kwargs, operands, to)
    results: dict[fx.Node, Any] = dict(
        zip(to.written_out[key].graph.find_nodes(op="placeholder"), operands, strict=True)
    )
    for call in to.written_out[key].graph.nodes:
        if call.op == "output":
            return fx.map_arg(call.args[0], lambda call: results[call])
        if call.op != "placeholder":
            inner, named = fx.map_arg((call.args, dict(call.kwargs)), lambda call: results[call])
            picks = call.target is operator.getitem
            result = _picked(inner, to) if picks else _called(call.target, inner, named, to)
            results[call] = _with_lines(result, node)
    raise _StillWrites


def _trace(target: Any, args: Any, kwargs: Any, operands: list[fx.Node], to: _Rewriting) -> fx.GraphModule:  # noqa: ANN401
    """A call by itself. Raises _StillWrites where what it calls writes something too."""

    def call(*tensors: Tensor) -> Any:  # noqa: ANN401 (whatever it gives)
        rest = iter(tensors)
        inputs, named = fx.map_arg((args, kwargs), lambda _: next(rest))
        written = to.table[target](*inputs, **named) if target in to.table else NotImplemented
        return target(*inputs, **named) if written is NotImplemented else written

    graph: fx.GraphModule = make_fx(call)(*(operand.meta["val"] for operand in operands))
    for node in graph.graph.nodes:
        whole = node.op != "call_function" or node.target is operator.getitem or _writes_nothing(node, to.table)
        if not whole or node.op == "get_attr":
            raise _StillWrites
    return graph
