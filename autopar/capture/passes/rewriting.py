"""Small tools for passes over a Graph: every one returns a new graph and leaves the old as it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from autopar.ir.graph import Argument, Graph, Node, Ref, Value


def rename_refs(argument: Argument, names: Mapping[str, str]) -> Argument:
    """The argument with every tensor it reads renamed."""
    if isinstance(argument, Ref):
        return Ref(names.get(argument.name, argument.name))
    if isinstance(argument, tuple):
        return tuple(rename_refs(item, names) for item in argument)
    return argument


def read_instead(node: Node, names: Mapping[str, str]) -> Node:
    """The node reading ``names[x]`` wherever it read x."""
    args = tuple(rename_refs(arg, names) for arg in node.args)
    return replace(node, args=args, kwargs=tuple((key, rename_refs(value, names)) for key, value in node.kwargs))


def with_nodes(graph: Graph, nodes: Iterable[Node], added: Iterable[Value] = ()) -> Graph:
    """The graph with other nodes; values nobody makes any more are forgotten, `added` are the new ones."""
    kept = tuple(nodes)
    values = {**graph.values, **{value.name: value for value in added}}
    ready = {item.value for item in graph.inputs} | {item.value for item in graph.parameters}
    ready |= {name for node in kept for name in node.outputs if name}
    return replace(graph, nodes=kept, values={name: value for name, value in values.items() if name in ready})


def rewritten(graph: Graph, rewrite: Callable[[Node], Node]) -> Graph:
    """The graph with what `rewrite` gives in the place of each node."""
    return dead_code(replace(graph, nodes=tuple(map(rewrite, graph.nodes))))


def drop_where(graph: Graph, same: Callable[[Node], bool]) -> Graph:
    """The graph without the nodes whose first result is their first operand."""
    return drop_identities(graph, {node.outputs[0]: node.inputs[0] for node in graph.nodes if same(node)})


def maker(makers: Mapping[str, Node], name: str, *targets: str) -> Node | None:
    """The node that makes a value, if it is one of these calls."""
    node = makers.get(name)
    return node if node is not None and node.target in targets else None


def drop_identities(graph: Graph, same: Mapping[str, str]) -> Graph:
    """Drop the nodes that make the keys of `same`; whoever read them reads the mapped value. Chains are followed."""
    final: dict[str, str] = {}
    for name in graph.values:
        root = name
        while root in same:
            root = same[root]
        if root != name:
            final[name] = root
    nodes = [read_instead(node, final) for node in graph.nodes if not any(name in same for name in node.outputs)]
    updates = tuple((buffer, final.get(value, value)) for buffer, value in graph.updates)
    outputs = tuple((path, final.get(value, value)) for path, value in graph.outputs)
    loss = final.get(graph.loss, graph.loss)
    return with_nodes(replace(graph, loss=loss, updates=updates, outputs=outputs), nodes)


def dead_code(graph: Graph) -> Graph:
    """Keep what the loss, the outputs and the buffer updates need; unread results become ``""``, unread constants go.

    An update of a buffer by itself goes too. Inputs, parameters and buffers stay even where nothing reads them.
    """
    own = {item.name: item.value for item in graph.parameters}
    updates = tuple((buffer, value) for buffer, value in graph.updates if own[buffer] != value)
    needed = {*graph.returned, *(value for _, value in updates)}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed & set(node.outputs):
            needed |= set(node.inputs)
            kept.append(replace(node, outputs=tuple(name if name in needed else "" for name in node.outputs)))
    parameters = tuple(item for item in graph.parameters if item.kind != "constant" or item.value in needed)
    return with_nodes(replace(graph, parameters=parameters, updates=updates), reversed(kept))


def static_values(graph: Graph) -> frozenset[str]:
    """Values that depend on no input, parameter or buffer: literals and constants, and what is computed from them."""
    static = {item.value for item in graph.parameters if item.kind == "constant"}
    for node in graph.nodes:
        if all(name in static for name in node.inputs) and not random(node):
            static |= {name for name in node.outputs if name}
    return frozenset(static)


def no_gradient(target: str) -> bool:
    """Whether a call of this name yields what carries no gradient, whatever it reads."""
    return re.match(r"aten\.(detach|new_\w+|\w+_like|sign)\.", target) is not None


def random(node: Node) -> bool:
    """Whether two calls may give different numbers."""
    return any(word in node.target for word in ("rand", "dropout", "bernoulli", "normal", "uniform", "multinomial"))


def slice_of(graph: Graph, name: str) -> tuple[Node, ...]:
    """The nodes that `name` is computed by, in execution order."""
    needed, nodes = {name}, []
    for node in reversed(graph.nodes):
        if needed & set(node.outputs):
            needed |= set(node.inputs)
            nodes.append(node)
    return tuple(reversed(nodes))
