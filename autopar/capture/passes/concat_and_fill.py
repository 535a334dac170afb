"""Passes over joined and filled tensors: what is cut out of a join again is cut from its piece, a filled one is named so.

    cat(a, b)[rows of b]           those rows of b
    expand(constant of one number) full(shape, number)

The first is what remains of a tensor that was written to piece by piece (a shift to the right: zeros, the labels but the
last, the start token); the pieces that were written over go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from autopar.capture.passes.rewriting import rewritten
from autopar.ir.graph import Dtype, Graph, Node, Ref

_CAT, _SLICE = "aten.cat.default", "aten.slice.Tensor"


def slices_of_joins(graph: Graph) -> Graph:
    """Slices of a concatenation that lie inside one operand are slices of that operand."""
    producers = graph.producers()

    def rewrite(node: Node) -> Node:
        cat = producers.get(node.inputs[0]) if node.target == _SLICE else None
        if cat is None or cat.target != _CAT:
            return node
        dim = cat.args[1] if len(cat.args) > 1 else 0
        _, sliced, start, end, step = node.args
        assert isinstance(sliced, int)
        assert isinstance(start, int)
        assert isinstance(end, int)
        first = 0
        for name in cat.inputs if dim == sliced else ():
            rows = graph.values[name].shape[sliced]
            if first <= start < end <= first + rows:
                return replace(node, args=(Ref(name), sliced, start - first, end - first, step))
            first += rows
        return node

    return rewritten(graph, rewrite)


def name_fills(graph: Graph, constants: Mapping[str, torch.Tensor]) -> Graph:
    """``full`` for a constant of one number that is expanded. `constants`: values by name."""
    single = {
        item.value: constants[item.name].item()
        for item in graph.parameters
        if item.kind == "constant" and graph.values[item.value].shape == () and item.name in constants
    }

    def rewrite(node: Node) -> Node:
        if node.target != "aten.expand.default" or node.inputs[0] not in single:
            return node
        value = graph.values[node.outputs[0]]
        kwargs = (("dtype", Dtype(value.dtype)),)
        return replace(node, target="aten.full.default", args=(value.shape, single[node.inputs[0]]), kwargs=kwargs)

    return rewritten(graph, rewrite)
