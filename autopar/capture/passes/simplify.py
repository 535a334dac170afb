"""Passes that drop what changes no number: a captured Graph in, a shorter one out, each pass on its own.

`simplify` runs them in the order in which they help each other. Our graphs are functional and without strides, so
clones and copies into contiguous memory are nothing, and views are reshapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from autopar.capture.passes.attention_masks import plain_attention
from autopar.capture.passes.concat_and_fill import name_fills, slices_of_joins
from autopar.capture.passes.drop_path import drop_path
from autopar.capture.passes.expert_routing import experts
from autopar.capture.passes.patterns import affine, batch_norm, gelu
from autopar.capture.passes.rewriting import dead_code, drop_where, rewritten
from autopar.ir.graph import Argument, Dtype, Graph, Node, Ref

_CLONE = "aten.clone.default"
_COPIES = frozenset(
    {
        "aten.alias.default",
        _CLONE,
        "aten.contiguous.default",
        "aten.lift_fresh_copy.default",
        "aten.lift_fresh.default",
        "aten.detach_.default",
    }
)
_KEEP_STATISTICS = frozenset(
    {
        "aten._native_batch_norm_legit_functional.default",
        "aten.native_batch_norm.default",
        "aten.instance_norm.default",
    }
)  # with running statistics as the arguments 3 and 4, and whether they are changed as the argument 5
_VIEWS = frozenset({"aten.alias.default", "aten.detach.default", "aten.view.default", "aten.reshape.default"})
_DROPOUT = frozenset({"aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default"})
_SAME_SHAPE = frozenset({"aten.reshape.default", "aten.expand.default", "aten._to_copy.default", "aten.to.dtype"})


def simplify(graph: Graph, constants: Mapping[str, torch.Tensor]) -> Graph:
    """All passes. `constants` holds values of constants by their user name, as far as they are known."""
    graph = drop_copies(expand_broadcasts(dead_code(graph)))
    graph = drop_neutral(slices_of_joins(name_fills(plain_dropout(drop_dropout(drop_path(graph))), constants)))
    graph = experts(drop_same_shape(affine(batch_norm(graph))))
    graph = gelu(plain_attention(graph, constants))
    return dead_code(drop_same_shape(merge_reshapes(graph)))


def drop_copies(graph: Graph) -> Graph:
    """Drop aliases and clones, and detach where nothing flows anyway. A clone that is written to where it lies is kept."""
    written = _written(graph)

    def same(node: Node) -> bool:
        idle = node.target == "aten.detach.default" and not graph.values[node.inputs[0]].differentiable
        return idle or (node.target in _COPIES and not (node.target == _CLONE and node.outputs[0] in written))

    return drop_where(graph, same)


def _written(graph: Graph) -> set[str]:
    """The tensors whose memory holds running statistics that a normalisation in training changes: no schema says that."""
    written = {
        argument.name
        for node in graph.nodes
        if node.target in _KEEP_STATISTICS and node.args[5] is True
        for argument in node.args[3:5]
        if isinstance(argument, Ref)
    }
    for node in reversed(graph.nodes):
        if node.target in _VIEWS and node.outputs[0] in written:
            written.add(node.inputs[0])
    return written


def expand_broadcasts(graph: Graph) -> Graph:
    """One expand per tensor instead of broadcast_tensors, which yields all of them at once."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.target != "aten.broadcast_tensors.default":
            nodes.append(node)
            continue
        operands = node.args[0]
        assert isinstance(operands, tuple)
        for name, operand in zip(node.outputs, operands, strict=True):
            if name:
                args = (operand, graph.values[name].shape)
                nodes.append(replace(node, name=name, target="aten.expand.default", args=args, outputs=(name,)))
    return replace(graph, nodes=tuple(nodes))


def drop_dropout(graph: Graph) -> Graph:
    """Drop dropout that drops nothing: probability 0, or not in training."""

    def same(node: Node) -> bool:
        if node.target == "aten.native_dropout.default":
            return not node.outputs[1] and (not node.args[1] or node.args[2] is False)
        return node.target in _DROPOUT and (not node.args[1] or node.args[2] is False)

    return drop_where(graph, same)


def plain_dropout(graph: Graph) -> Graph:
    """``aten.dropout`` for one that also yields its mask, where nobody reads that."""

    def rewrite(node: Node) -> Node:
        if node.target != "aten.native_dropout.default" or node.outputs[1]:
            return node
        return replace(node, target="aten.dropout.default", outputs=node.outputs[:1])

    return replace(graph, nodes=tuple(map(rewrite, graph.nodes)))


def drop_neutral(graph: Graph) -> Graph:
    """Drop ``x + 0``, ``x - 0``, ``x * 1``, ``x / 1`` and whole slices, where the result has x's shape and dtype."""
    neutral = {"aten.add.Tensor": 0, "aten.sub.Tensor": 0, "aten.mul.Tensor": 1, "aten.div.Tensor": 1}

    def same(node: Node) -> bool:
        if node.target == "aten.slice.Tensor":
            return _unchanged(graph, node)
        other: Argument = node.args[1] if len(node.args) > 1 else None
        literal = isinstance(other, int | float) and other == neutral.get(node.target, "none")
        return literal and isinstance(node.args[0], Ref) and _unchanged(graph, node)

    return drop_where(graph, same)


def drop_same_shape(graph: Graph) -> Graph:
    """Drop reshapes and expands to the shape that is there, and casts to the dtype that is there."""
    return drop_where(graph, lambda node: node.target in _SAME_SHAPE and _unchanged(graph, node))


def merge_reshapes(graph: Graph) -> Graph:
    """A reshape of a reshape is one reshape."""
    producers = graph.producers()

    def source(name: str) -> str:
        node = producers.get(name)
        return source(node.inputs[0]) if node is not None and node.target == "aten.reshape.default" else name

    def rewrite(node: Node) -> Node:
        reshapes = node.target == "aten.reshape.default"
        return replace(node, args=(Ref(source(node.inputs[0])), *node.args[1:])) if reshapes else node

    return rewritten(graph, rewrite)


def _unchanged(graph: Graph, node: Node) -> bool:
    """Whether the result has the shape and dtype of the first operand (and every operand is that one)."""
    before, after = graph.values[node.inputs[0]], graph.values[node.outputs[0]]
    dtypes = [value for _, value in node.kwargs if isinstance(value, Dtype)]
    return before.shape == after.shape and before.dtype == after.dtype and all(d.name == after.dtype for d in dtypes)
