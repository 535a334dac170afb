"""Drop path (stochastic depth), as it is written out in models, recognised as the one operator that it is.

    x / keep * floor(rand([n, 1, 1]) + keep)        autopar.drop_path(x, keep)

A sample's branch x is dropped with probability 1 - keep. Models leave this out in evaluation, and so does the operator.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from autopar.capture.passes.rewriting import maker, random, rewritten
from autopar.ir.graph import Graph, Node, Ref

TARGET = "autopar.drop_path"
_CALLS = (("rand",), ("add", "radd"), ("floor",), ("div", "truediv"), ("mul",))  # of torch, in this order


def drop_path(graph: Graph) -> Graph:
    """``autopar.drop_path`` with args (x, keep) for every drop path of the graph."""
    producers, order = graph.producers(), {node.name: i for i, node in enumerate(graph.nodes)}
    drawing = [i for i, node in enumerate(graph.nodes) if random(node)]

    def rewrite(node: Node) -> Node:
        parts = _parts(graph, producers, node)
        if parts is None:
            return node
        rand, x, keep = parts
        between = [i for i in drawing if order[rand.name] < i < order[node.name]]
        return node if between else replace(node, target=TARGET, args=(x, keep), kwargs=())

    return rewritten(graph, rewrite)


def _parts(graph: Graph, makers: Mapping[str, Node], node: Node) -> tuple[Node, Ref, float] | None:
    """The call of rand, x and keep of a drop path that ends in this product."""
    pair = [makers.get(name) for name in node.inputs] if node.target == "aten.mul.Tensor" else []
    for div, floor in itertools.permutations(pair) if len(pair) == 2 else ():
        if div is None or floor is None or (div.target, floor.target) != ("aten.div.Tensor", "aten.floor.default"):
            continue
        add = maker(makers, floor.inputs[0], "aten.add.Tensor")
        rand = maker(makers, add.inputs[0], "aten.rand.default") if add else None
        if add is None or rand is None:
            continue
        (x, keep), shape = div.args[:2], graph.values[div.inputs[0]].shape
        same = add.args[1:] == (keep,) and graph.values[rand.outputs[0]].shape == (shape[0], *[1] * (len(shape) - 1))
        if same and isinstance(x, Ref) and isinstance(keep, float):
            return rand, x, keep
    return None


def without_paths(calls: Sequence[tuple[object, ...]], count: int) -> list[tuple[object, ...]]:
    """A log of torch calls without those of drop paths, if there are as many as the graph has; else the log itself."""
    kept: list[tuple[object, ...]] = []
    dropped = 0
    rest = list(calls)
    while rest:
        names = [str(call[0]).strip("_") for call in rest[: len(_CALLS)]]
        if len(names) == len(_CALLS) and all(name in known for name, known in zip(names, _CALLS, strict=True)):
            dropped += 1
            rest = rest[len(_CALLS) :]
        else:
            kept.append(rest.pop(0))
    return kept if dropped == count else list(calls)
