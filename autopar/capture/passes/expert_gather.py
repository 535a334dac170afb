"""Mixture of experts as a batch of products with gathered weights: one product per row becomes `expert_linear`.

    bmm(W[ids], x[:, :, None])[:, :, 0]        W [expert, n, k], x [row, k], ids [row]
    bmm(x[:, None, :], W[ids])[:, 0, :]        W [expert, k, n]

The gathered weights are never made: a row's expert is looked up, and rows of one expert share a product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from autopar.capture.passes.rewriting import dead_code, with_nodes
from autopar.ir.graph import Graph, Node, Ref, Value

PRODUCTS = frozenset({"aten.bmm.default", "aten.matmul.default"})
_VIEWS = frozenset({"aten.reshape.default", "aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze.default"})
_COLUMNS = frozenset({"aten.reshape.default", "aten.unsqueeze.default"})


def gathered(graph: Graph) -> Graph:
    """`autopar.expert_linear` for every product of rows with the weights that each row's index picks."""
    producers, readers = graph.producers(), graph.consumers()
    nodes: list[Node] = []
    values: list[Value] = []
    for node in graph.nodes:
        product = _product(graph, producers, readers, node) if node.target in _VIEWS else None
        if product is None:
            nodes.append(node)
            continue
        x, weight, ids, turned = product
        if turned:
            weight, turn, more = turned_weight(graph, producers, node, weight)
            nodes += turn
            values += more
        nodes.append(replace(node, target="autopar.expert_linear", args=(Ref(x), Ref(weight), Ref(ids)), kwargs=()))
    return dead_code(with_nodes(graph, nodes, values))


def turned_weight(
    graph: Graph, makers: Mapping[str, Node], node: Node, weight: str
) -> tuple[str, list[Node], list[Value]]:
    """The weight with its last two dims exchanged, and what makes it where nothing is it already."""
    maker = makers.get(weight)
    if maker is not None and maker.target == "aten.transpose.int" and set(maker.args[1:]) == {1, 2}:
        return maker.inputs[0], [], []
    value, name = graph.values[weight], f"{node.name}_weight"
    made_value = replace(value, name=name, shape=(value.shape[0], value.shape[2], value.shape[1]))
    args = (Ref(weight), 1, 2)
    turn = replace(node, name=name, target="aten.transpose.int", args=args, kwargs=(), outputs=(name,))
    return name, [turn], [made_value]


def _product(
    graph: Graph, makers: Mapping[str, Node], readers: Mapping[str, tuple[Node, ...]], last: Node
) -> tuple[str, str, str, bool] | None:
    """(x, weight, ids, whether the weight is [expert, k, n]) of the product whose result `last` flattens, or None."""
    product = makers.get(last.inputs[0])
    if product is None or product.target not in PRODUCTS or len(readers[product.outputs[0]]) != 1:
        return None
    for picked, rows, turned in ((0, 1, False), (1, 0, True)):
        table, column = makers.get(product.inputs[picked]), makers.get(product.inputs[rows])
        if table is None or column is None or column.target not in _COLUMNS or not _picks(graph, table):
            continue
        x, shape = graph.values[column.inputs[0]], graph.values[column.outputs[0]].shape
        count, width = x.shape if len(x.shape) == 2 else (0, 0)
        if shape != ((count, 1, width) if turned else (count, width, 1)):
            continue
        if graph.values[last.outputs[0]].shape != (count, graph.values[product.outputs[0]].numel // max(count, 1)):
            continue
        return x.name, table.inputs[0], table.inputs[1], turned
    return None


def _picks(graph: Graph, node: Node) -> bool:
    """Whether it is ``W[ids]`` with three dims of W and one of ids."""
    if node.target != "aten.index.Tensor" or len(node.inputs) != 2 or node.args[1] != (Ref(node.inputs[1]),):
        return False
    table, ids = (graph.values[name] for name in node.inputs)
    return len(table.shape) == 3 and len(ids.shape) == 1 and ids.dtype in ("int64", "int32")
