"""A graph as text, one line per call, for people and for dumps."""

from __future__ import annotations

from autopar.ir.graph import Argument, Dtype, Graph, Node, Ref

_SHORT = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16",
    "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8",
}  # fmt: skip


def format_graph(graph: Graph) -> str:
    """The graph line by line: inputs, parameters, calls with module and source, loss, buffer updates.

    A value's type is dtype and shape, with a prime where a gradient flows: ``f32[8, 128]'``.
    """
    lines = [f"graph {graph.name}: {len(graph.nodes)} nodes, {len(graph.parameters)} parameters and buffers"]
    lines += [f"  input      {item.name}: {_type(graph, item.value)}" for item in graph.inputs]
    for item in graph.parameters:
        tied = f" = {', '.join(item.aliases)}" if item.aliases else ""
        lines.append(f"  {item.kind:<10} {item.name}: {_type(graph, item.value)}{tied}")
    lines += [f"  {_line(graph, node)}" for node in graph.nodes]
    lines += [f"  loss       {graph.loss}"]
    lines += [f"  update     {buffer} <- {value}" for buffer, value in graph.updates]
    return "\n".join(lines)


def _line(graph: Graph, node: Node) -> str:
    results = ", ".join(f"{name}: {_type(graph, name)}" if name else "_" for name in node.outputs)
    words = [_spell(arg) for arg in node.args] + [f"{key}={_spell(value)}" for key, value in node.kwargs]
    place = " ".join(filter(None, (node.module, node.source)))
    return f"{results} = {node.target.removesuffix('.default')}({', '.join(words)})" + (f"  # {place}" if place else "")


def _type(graph: Graph, name: str) -> str:
    value = graph.values[name]
    return f"{_SHORT.get(value.dtype, value.dtype)}{list(value.shape)}" + ("'" if value.differentiable else "")


def _spell(argument: Argument) -> str:
    if isinstance(argument, Ref):
        return argument.name
    if isinstance(argument, Dtype):
        return _SHORT.get(argument.name, argument.name)
    if isinstance(argument, tuple):
        return f"[{', '.join(_spell(item) for item in argument)}]"
    return repr(argument)
