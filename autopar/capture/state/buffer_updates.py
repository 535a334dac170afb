"""Buffers that a step changes, made safe to change where their updates stand: in the middle of forward, before backward.

b = clone(buffer)      what a step reads of a buffer that it changes, where autograd may keep it, or a view of it is read
buffer <- detach(v)    the next step does not go back through this one
buffer <- clone(v)     where v is nothing that the step makes: an input, another buffer, or a view of one
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from autopar.capture.passes.rewriting import no_gradient, read_instead, with_nodes
from autopar.errors import CaptureError, refusal
from autopar.ir.graph import Graph, Node, Ref, Value

_CLONE, _DETACH = "aten.clone.default", "aten.detach.default"
_RULE = (
    "a step ends with its own backward: what it stores for the next step carries no gradient that the next loss needs"
)
_FIX = "store it detached: self.state = new.detach(), or write it under torch.no_grad()"


def settle(graph: Graph) -> Graph:
    """The graph with the clones and detaches of its updates."""
    return _plain_values(_old_values(graph))


def refuse_chains(graph: Graph) -> Graph:
    """The graph. Raises CaptureError where the loss reads what the step before has stored, both with a gradient.

    PyTorch raises there in the second backward, which would have to go through the first step's graph again.
    """
    makers = graph.producers()
    stored = {
        buffer: makers[value]
        for buffer, value in graph.updates
        if graph.values[value].differentiable and not _norm(makers[value])
    }
    chains = [item for item in graph.parameters if item.name in stored and graph.loss in _reach(graph, item.value)]
    if chains:
        node = stored[chains[0].name]
        where = f"{node.source}: `{node.code}`" if node.source else f"forward of {graph.name}"
        fault = "a buffer's new value carries a gradient, and the next step's loss reads it"
        raise CaptureError(refusal(where, fault, _RULE, [item.name for item in chains], _FIX))
    return graph


def _reach(graph: Graph, start: str) -> set[str]:
    """The values to which a gradient could flow back from: all that are computed from `start` without a detach between."""
    reached = {start}
    for node in graph.nodes:
        if not no_gradient(node.target) and reached & set(node.inputs):
            reached |= {
                name
                for name in node.outputs
                if name and graph.values[name].dtype.startswith(("float", "bfloat", "complex"))
            }
    return reached


def _old_values(graph: Graph) -> Graph:
    """Let a step read a copy of each buffer that it changes while autograd or a view may still look at it."""
    updated = {name for name, _ in graph.updates}
    readers = graph.consumers()
    copied = [item for item in graph.parameters if item.name in updated and _kept(graph, readers[item.value])]
    copies: list[Value] = []
    nodes: list[Node] = []
    names = {item.value: _free(graph, f"{item.value}_old") for item in copied}
    ready: set[str] = set()
    for node in graph.nodes:
        for name in [name for name in dict.fromkeys(node.inputs) if name in names.keys() - ready]:
            ready.add(name)
            nodes.append(_call(_CLONE, name, names[name], node))
            copies.append(replace(graph.values[name], name=names[name]))
        nodes.append(read_instead(node, names))
    return with_nodes(graph, nodes, copies)


def _kept(graph: Graph, readers: Iterable[Node]) -> bool:
    """Whether autograd may keep what these calls read, or their results lie in its memory."""
    return any(
        not _norm(node) and (_views(node) or any(graph.values[name].differentiable for name in node.outputs if name))
        for node in readers
    )


def _plain_values(graph: Graph) -> Graph:
    """Let every update take a value that a call has made, without a gradient, and in memory of its own."""
    makers, updated = graph.producers(), dict(graph.updates)
    homes = {item.value for item in graph.parameters if item.name in updated}
    nodes, values, updates = list(graph.nodes), list[Value](), []
    for buffer, value in graph.updates:
        target = _target(graph, value, makers, homes)
        if target:
            name = _free(graph, f"{value}_{buffer.replace('.', '_')}_new")
            after = nodes.index(makers[value]) + 1 if value in makers else 0
            nodes.insert(after, _call(target, value, name, makers.get(value, nodes[0])))
            values.append(replace(graph.values[value], name=name, differentiable=False))
            value = name
        updates.append((buffer, value))
    return with_nodes(replace(graph, updates=tuple(updates)), nodes, values)


def _target(graph: Graph, value: str, makers: dict[str, Node], homes: set[str]) -> str:
    """The call through which a value is stored, or nothing where it may be stored as it is."""
    node = makers.get(value)
    if node is not None and _norm(node):
        return ""
    if graph.values[value].differentiable:
        return _DETACH
    base = value
    while node is not None and _views(node):
        base = node.inputs[0]
        node = makers.get(base)
    return _CLONE if value not in makers or base in homes else ""


def _norm(node: Node) -> bool:
    """A batch norm in training changes its running statistics itself, and keeps neither the old nor the new ones.

    One of which somebody reads the batch's own statistics stays torch's (`autopar.capture.passes.patterns`), which keeps the
    old ones.
    """
    return node.target == "autopar.batch_norm" or (
        node.target == "aten._native_batch_norm_legit_functional.default"
        and node.args[5] is True
        and not any(node.outputs[1:3])
    )


def _views(node: Node) -> bool:
    """Whether a result may lie in the memory of an operand."""
    namespace, name, overload = (*node.target.split("."), "", "")[:3]
    operator = getattr(getattr(getattr(torch.ops, namespace), name, None), overload, None)
    return isinstance(operator, torch._ops.OpOverload) and any(value.alias_info for value in operator._schema.returns)


def _call(target: str, value: str, name: str, near: Node) -> Node:
    """A call on one value, where `near` stands in the user's model."""
    return replace(near, name=name, target=target, args=(Ref(value),), kwargs=(), outputs=(name,))


def _free(graph: Graph, wish: str) -> str:
    while wish in graph.values:
        wish += "_"
    return wish
