"""Passes that recognise one operator in the several calls it was captured as: affine maps, batch norm, and tanh's gelu.

    reshape(-1, k) -> addmm(bias, x, w) -> reshape(b, s, n)       autopar.affine(x, w, bias), x[b, s, k] @ w + bias
    reshape(-1, k) -> linear(x, w, bias) -> reshape(b, s, n)      aten.linear on x[b, s, k]
    _native_batch_norm_legit_functional(..., training=True, ...)  autopar.batch_norm -> (y, new mean, new variance)
    0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))  aten.gelu(x, approximate="tanh")

Keeping batch and sequence apart is what lets each of them be split.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from autopar.capture.passes.rewriting import dead_code, with_nodes
from autopar.ir.graph import Graph, Node, Ref, Value
from autopar.ops.interpreter import run

_RESHAPE = "aten.reshape.default"
_LONGEST = 12  # steps of a formula; the one above takes 8 or 9
_POINTWISE = frozenset(
    {
        "aten.mul.Tensor",
        "aten.add.Tensor",
        "aten.sub.Tensor",
        "aten.div.Tensor",
        "aten.pow.Tensor_Scalar",
        "aten.tanh.default",
    }
)


def batch_norm(graph: Graph) -> Graph:
    """``autopar.batch_norm`` with args (x, weight, bias, mean, var, momentum, eps) for a batch norm in training.

    ``autopar.batch_norm_unkept`` with args (x, weight, bias, eps) for one that keeps no running statistics.
    """

    def rewrite(node: Node) -> Node:
        if (
            node.target == "aten._native_batch_norm_legit.no_stats"
            and node.args[3] is True
            and not any(node.outputs[1:])
        ):
            args = (*node.args[:3], node.args[5])
            return replace(node, target="autopar.batch_norm_unkept", args=args, outputs=node.outputs[:1])
        if node.target != "aten._native_batch_norm_legit_functional.default" or node.args[5] is not True:
            return node
        y, mean, rstd, new_mean, new_var = node.outputs
        if mean or rstd:
            return node  # somebody reads the batch's own statistics
        return replace(
            node, target="autopar.batch_norm", args=node.args[:5] + node.args[6:8], outputs=(y, new_mean, new_var)
        )

    nodes = [rewrite(node) for node in dead_code(graph).nodes]
    running = [name for node in nodes if node.target == "autopar.batch_norm" for name in node.outputs[1:] if name]
    return with_nodes(graph, nodes, [replace(graph.values[name], differentiable=False) for name in running])


def affine(graph: Graph) -> Graph:
    """``autopar.affine`` for addmm, and both it and linear on x with its own leading dims instead of flattened ones."""
    producers, readers = graph.producers(), graph.consumers()
    nodes: list[Node] = []
    values: list[Value] = []
    skipped: set[str] = set()
    for node in graph.nodes:
        if node.name in skipped:
            continue
        x, call = _as_affine(graph, node)
        if call is None:
            nodes.append(node)
            continue
        after = readers[node.outputs[0]]
        if len(after) != 1 or not _restores_rows(graph, node, after[0]) or node.outputs[0] in graph.returned:
            nodes.append(call)
            continue
        base = producers[x].inputs[0] if x in producers and producers[x].target == _RESHAPE else x
        shape = graph.values[after[0].outputs[0]].shape[:-1] + graph.values[x].shape[-1:]
        rows = replace(graph.values[base], name=f"{node.name}_rows", shape=shape)
        values.append(rows)
        nodes.append(
            Node(rows.name, _RESHAPE, (Ref(base), shape), (), (rows.name,), node.module, node.source, node.code)
        )
        nodes.append(replace(call, args=(Ref(rows.name), *call.args[1:]), outputs=after[0].outputs))
        skipped.add(after[0].name)
    return dead_code(with_nodes(graph, nodes, values))


def _as_affine(graph: Graph, node: Node) -> tuple[str, Node | None]:
    """The flattened operand and the call as an affine map or linear; None where it is neither."""
    if node.target == "aten.linear.default":
        return node.inputs[0], node
    if node.target == "aten.addmm.default" and not node.kwargs and len(graph.values[node.inputs[0]].shape) == 1:
        bias, x, weight = node.args
        return node.inputs[1], replace(node, target="autopar.affine", args=(x, weight, bias))
    return "", None


def _restores_rows(graph: Graph, node: Node, after: Node) -> bool:
    """Whether `after` does nothing but give two-dimensional rows their leading dims back."""
    if after.target != _RESHAPE:
        return False
    before, shape = graph.values[node.outputs[0]].shape, graph.values[after.outputs[0]].shape
    return len(before) == 2 and len(shape) > 2 and shape[-1] == before[-1]


def gelu(graph: Graph) -> Graph:
    """``aten.gelu(x, approximate="tanh")`` for any pointwise formula around a tanh that equals it in float64."""
    producers = graph.producers()
    replaced: dict[str, Node] = {}
    for node in graph.nodes:
        if node.target != "aten.mul.Tensor":
            continue
        operand = _gelu_operand(graph, producers, node)
        if operand is not None:
            replaced[node.name] = replace(
                node, target="aten.gelu.default", args=(Ref(operand),), kwargs=(("approximate", "tanh"),)
            )
    return dead_code(with_nodes(graph, [replaced.get(node.name, node) for node in graph.nodes]))


def _gelu_operand(graph: Graph, makers: dict[str, Node], last: Node) -> str | None:
    """The x of which `last` is the gelu, or None."""
    for candidate in _ancestors(makers, last, depth=8):
        nodes = _pointwise_between(makers, last, candidate)
        if nodes and any(node.target == "aten.tanh.default" for node in nodes) and _is_gelu(nodes, candidate, last):
            same = graph.values[candidate].shape == graph.values[last.outputs[0]].shape
            return candidate if same else None
    return None


def _ancestors(makers: dict[str, Node], node: Node, depth: int) -> tuple[str, ...]:
    """Values read by two or more of the steps before `node`, found within `depth` steps."""
    level, count = [node], dict[str, int]()
    seen = {node.name}
    for _ in range(depth):
        below = []
        for step in level:
            for name in step.inputs:
                count[name] = count.get(name, 0) + 1
                if name in makers and makers[name].target in _POINTWISE and makers[name].name not in seen:
                    seen.add(makers[name].name)
                    below.append(makers[name])
        level = below
    return tuple(name for name, n in count.items() if n > 1)


def _pointwise_between(makers: dict[str, Node], last: Node, first: str) -> tuple[Node, ...]:
    """The pointwise nodes from `first` to `last` in execution order; () where they read anything else."""
    order: dict[str, Node] = {}

    def visit(node: Node) -> bool:
        if node.target not in _POINTWISE or len(order) > _LONGEST:
            return False
        for name in node.inputs:
            if name != first and (name not in makers or (makers[name].name not in order and not visit(makers[name]))):
                return False
        order[node.name] = node
        return True

    return tuple(order.values()) if visit(last) else ()


def _is_gelu(nodes: tuple[Node, ...], first: str, last: Node) -> bool:
    x = torch.linspace(-6, 6, 241, dtype=torch.float64)
    y = run(nodes, {first: x})[last.outputs[0]]
    return torch.allclose(y, torch.nn.functional.gelu(x, approximate="tanh"), rtol=1e-12, atol=1e-12)
