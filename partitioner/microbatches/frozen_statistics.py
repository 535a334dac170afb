"""Batch norms of a model in evaluation: by their running statistics, which stay as they are, and so without the batch's own."""

from __future__ import annotations

from dataclasses import replace

from autopar.ir.graph import Graph, Node

_COUNTER = "num_batches_tracked"
NOT_TRAINED = "divided into micro-batches, its batch norms go by their running statistics"


def keeps_statistics(graph: Graph) -> bool:
    """Whether a batch norm updates running statistics in training."""
    return any(node.target == "autopar.batch_norm" for node in graph.nodes)


def with_frozen_statistics(graph: Graph) -> Graph:
    """The graph of the model in evaluation."""
    nodes = tuple(map(_frozen, graph.nodes))
    running = {name for node in graph.nodes if node.target == "autopar.batch_norm" for name in node.outputs[1:]}
    gone = {value for name, value in graph.updates if name.endswith(_COUNTER)}
    updates = tuple(pair for pair in graph.updates if pair[1] not in running | gone)
    read = {name for node in nodes for name in node.inputs} | set(graph.returned) | {value for _, value in updates}
    nodes = tuple(node for node in nodes if not gone.intersection(node.outputs) or read.intersection(node.outputs))
    made = {name for node in nodes for name in node.outputs}
    values = {name: value for name, value in graph.values.items() if name in made | graph.external}
    return replace(graph, nodes=nodes, updates=updates, values=values)


def _frozen(node: Node) -> Node:
    """A norm by given statistics: with these, instance norm and batch norm are one."""
    if node.target != "autopar.batch_norm":
        return node
    x, weight, bias, mean, var, momentum, eps = node.args
    args = (x, weight, bias, mean, var, False, momentum, eps, True)
    return replace(node, target="aten.instance_norm.default", args=args, outputs=node.outputs[:1])
