"""Mixture of experts: from routines that sort rows by expert, multiply groups of them and sort back, to two calls.

    s, p = sort(ids);  grouped_mm(x[p], W, cumsum(histogram(s)))[inverse of p]
        = expert_linear(x, W, ids)                                         y[r] = W[ids[r]] x[r]
    (expert_linear(g(expert_linear(x, U, ids)), D, ids) * w).sum over choices
        = experts(x, ids, w, U, D)

`unsorted` writes beside every value in sorted order the one it is sorted from: v = u[p]. What treats every row alone
makes sorted rows of sorted rows, so that u follows v through all of it, up to v[inverse of p], which is u. Where that
does not reach, nothing has changed. `fused` then finds the two products of one network. Without them no call sorts,
and the rows (tokens), the experts and their features are letters like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch

from autopar.capture.passes.expert_gather import PRODUCTS, gathered, turned_weight
from autopar.capture.passes.rewriting import dead_code, drop_identities, maker, rename_refs, slice_of, with_nodes
from autopar.ir.graph import Argument, Graph, Node, Ref, Value
from autopar.ops.interpreter import run
from autopar.ops.lookup import call_of, op_of, rule_of_call

_GROUPED = frozenset({"transformers.grouped_mm_fallback.default", "aten._grouped_mm.default"})
_SORTS = frozenset({"aten.sort.default", "aten.sort.stable", "aten.argsort.default"})
_CASTS = frozenset({"aten._to_copy.default", "aten.to.dtype"})
_ACTIVATIONS = {"aten.silu.default": "silu", "aten.gelu.default": "gelu", "aten.relu.default": "relu"}
_ARANGE, _RESHAPE, _LINEAR = "aten.arange.default", "aten.reshape.default", "autopar.expert_linear"


@dataclass(slots=True)
class _Sorted:
    """Values in the order of one permutation, each with the value or the count of rows that it is sorted from."""

    permutation: str
    ids: str
    rows: int
    origin: dict[str, str] = field(default_factory=dict)  # v -> u with v = u[p]
    blocks: dict[str, int] = field(default_factory=dict)  # v -> n with v = (arange // n)[p]


def experts(graph: Graph) -> Graph:
    """The graph with `autopar.expert_linear` and `autopar.experts` where it routes rows to experts."""
    targets = {node.target for node in graph.nodes}
    routed = unsorted(graph) if targets & _GROUPED else graph
    routed = gathered(routed) if "aten.index.Tensor" in targets and targets & PRODUCTS else routed
    return fused(routed) if any(node.target == _LINEAR for node in routed.nodes) else graph


def unsorted(graph: Graph) -> Graph:
    """Grouped products of sorted rows as products of rows where they are."""
    orders: list[_Sorted] = []
    nodes: list[Node] = []
    values: dict[str, Value] = dict(graph.values)
    same: dict[str, str] = {}
    producers = graph.producers()
    for node in graph.nodes:
        nodes.append(node)
        if node.target in _SORTS and len(graph.values[node.inputs[0]].shape) == 1 and _ascending(node):
            orders.append(_order(graph, node))
        for order in orders:
            back = _restored(producers, order, node)
            if back:
                same[node.outputs[0]] = back
                break
            added = _followed(graph, producers, order, node, values)
            nodes += added
            if added or any(name in order.blocks for name in node.outputs):
                break
    return dead_code(drop_identities(with_nodes(graph, nodes, values.values()), same))


def _ascending(node: Node) -> bool:
    """Whether a sort is of the whole vector upwards."""
    return not any(argument is True for argument in node.args[2:]) and dict(node.kwargs).get("descending") is not True


def _order(graph: Graph, node: Node) -> _Sorted:
    ids = node.inputs[0]
    order = _Sorted(node.outputs[-1], ids, graph.values[ids].shape[0])
    order.blocks[node.outputs[-1]] = 1
    if len(node.outputs) == 2 and node.outputs[0]:
        order.origin[node.outputs[0]] = ids
    return order


def _restored(makers: Mapping[str, Node], order: _Sorted, node: Node) -> str:
    """The u that ``v[inverse of p]`` is, or nothing."""
    if node.target != "aten.index.Tensor" or len(node.inputs) != 2 or node.inputs[0] not in order.origin:
        return ""
    places = node.args[1]
    assert isinstance(places, tuple)
    first = places[0]
    inverse = makers.get(first.name) if isinstance(first, Ref) else None
    if inverse is None or not _inverts(makers, order, inverse):
        return ""
    return order.origin[node.inputs[0]]


def _inverts(makers: Mapping[str, Node], order: _Sorted, node: Node) -> bool:
    """Whether a value is the inverse permutation: ``argsort(p)``, or 0, 1, ... written to the places p."""
    if node.target == "aten.argsort.default":
        return node.inputs[0] == order.permutation and _ascending(node)
    if node.target != "aten.index_put.default" or node.args[1] != (Ref(order.permutation),) or len(node.args) > 3:
        return False
    counted = makers.get(node.inputs[-1])
    return counted is not None and counted.target == _ARANGE and counted.args == (order.rows,)


def _followed(
    graph: Graph, makers: Mapping[str, Node], order: _Sorted, node: Node, values: dict[str, Value]
) -> list[Node]:
    """The calls that make what the node's results are sorted from, or none where they are not sorted rows."""
    sorted_inputs = [name for name in node.inputs if name in order.origin]
    if node.target == "aten.floor_divide.default" and node.inputs[0] in order.blocks and isinstance(node.args[1], int):
        order.blocks[node.outputs[0]] = order.blocks[node.inputs[0]] * node.args[1]
        return []
    if node.target == "aten.index.Tensor" and len(node.inputs) == 2 and node.args[1] == (Ref(node.inputs[1]),):
        if node.inputs[1] in order.origin and node.inputs[0] not in order.origin:
            return [_twin_call(graph, order, node, values)]  # rows of a table by sorted index
        if node.inputs[1] not in order.blocks:
            return []
        return _spread(graph, order, node, values)
    if not sorted_inputs:
        return []
    if node.target in _GROUPED:
        return _product(graph, makers, order, node, values)
    if not _by_rows(graph, order, node):
        return []
    return [_twin_call(graph, order, node, values)]


def _twin_call(graph: Graph, order: _Sorted, node: Node, values: dict[str, Value]) -> Node:
    """The same call on what its sorted operands are sorted from."""
    renamed = {name: order.origin[name] for name in node.inputs if name in order.origin}
    outputs = tuple(_twin(name, graph.values[name], order, values) if name else "" for name in node.outputs)
    args = tuple(rename_refs(argument, renamed) for argument in node.args)
    return replace(node, name=f"{node.name}_unsorted", args=args, outputs=outputs)


def _twin(name: str, like: Value, order: _Sorted, values: dict[str, Value]) -> str:
    """A new value like a sorted one, from which that is sorted."""
    twin = f"{name}_unsorted"
    values[twin] = replace(like, name=twin)
    order.origin[name] = twin
    return twin


def _spread(graph: Graph, order: _Sorted, node: Node, values: dict[str, Value]) -> list[Node]:
    """x[(arange // n)[p]] is sorted from x with every row n times."""
    x, count = graph.values[node.inputs[0]], order.blocks[node.inputs[1]]
    if x.shape[0] * count != order.rows:
        return []
    if count == 1:
        order.origin[node.outputs[0]] = x.name
        return []
    tall, wide = (x.shape[0], 1, *x.shape[1:]), (x.shape[0], count, *x.shape[1:])
    steps = []
    source = x.name
    for what, target, shape in (("rows", _RESHAPE, tall), ("choices", "aten.expand.default", wide)):
        added = f"{node.name}_{what}"
        values[added] = replace(x, name=added, shape=shape)
        steps.append(replace(node, name=added, target=target, args=(Ref(source), shape), kwargs=(), outputs=(added,)))
        source = added
    out = _twin(node.outputs[0], graph.values[node.outputs[0]], order, values)
    full = (order.rows, *x.shape[1:])
    last = replace(node, name=out, target=_RESHAPE, args=(Ref(source), full), kwargs=(), outputs=(out,))
    return [*steps, last]


def _product(
    graph: Graph, makers: Mapping[str, Node], order: _Sorted, node: Node, values: dict[str, Value]
) -> list[Node]:
    """A grouped product whose groups are those of the experts."""
    x, weight, ends = node.inputs[:3]
    if x not in order.origin or weight in order.origin or len(node.inputs) > 3 or node.args[3:] or node.kwargs:
        return []
    if not _groups(graph, order, ends, graph.values[weight].shape[0]):
        return []
    turned, turn, more = turned_weight(graph, makers, node, weight)
    values |= {value.name: value for value in more}
    out = _twin(node.outputs[0], graph.values[node.outputs[0]], order, values)
    args = (Ref(order.origin[x]), Ref(turned), Ref(order.ids))
    return [*turn, replace(node, name=out, target=_LINEAR, args=args, outputs=(out,))]


def _groups(graph: Graph, order: _Sorted, ends: str, count: int) -> bool:
    """Whether `ends` is, for any sorted ids, where each expert's rows end: found by trying."""
    keys = [name for name, origin in order.origin.items() if origin == order.ids]
    counting = _from(slice_of(graph, ends), keys)
    known = {*keys, *(name for node in counting for name in node.outputs)}
    if not keys or ends not in known or any(name not in known for node in counting for name in node.inputs):
        return False
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        ids = torch.randint(count, (order.rows,), generator=generator).sort().values
        ends_now = run(counting, dict.fromkeys(keys, ids))[ends]
        if not torch.equal(ends_now.long(), torch.bincount(ids, minlength=count).cumsum(0)):
            return False
    return True


def _from(nodes: Iterable[Node], keys: Iterable[str]) -> list[Node]:
    """The nodes that depend on the keys."""
    reached, kept = set(keys), []
    for node in nodes:
        if reached & set(node.inputs):
            reached |= set(node.outputs)
            kept.append(node)
    return kept


def _by_rows(graph: Graph, order: _Sorted, node: Node) -> bool:
    """Whether every row of the results is made of the same row of the sorted operands, and of nothing that has rows.

    The rows are then a letter of the call, and splitting it needs nothing of other ranks.
    """
    op, call = op_of(node), call_of(graph, node)
    rule = rule_of_call(call)
    letters = set()
    for name, dims in zip(node.inputs, rule.operands, strict=True):
        shape = graph.values[name].shape
        if name in order.origin:
            letters.add(dims[0] if dims and shape[0] == order.rows else ())
        elif shape[:1] == (order.rows,):
            return False
    row = next(iter(letters))
    if len(letters) != 1 or len(row) != 1 or row[0] not in rule.letters or op.random:
        return False
    if row[0] in rule.windows or row[0] in rule.whole or (op.inner is not None and op.inner(call, rule, row[0])):
        return False
    results = [dims for name, dims in zip(node.outputs, rule.results, strict=True) if name]
    return all(dims and dims[0] == row for dims in results)


def fused(graph: Graph) -> Graph:
    """`autopar.experts` for the two products of a network, its activation, and the weighted sum over choices."""
    producers = graph.producers()
    nodes: list[Node] = []
    values: list[Value] = []
    for node in graph.nodes:
        network = _network(graph, producers, node) if node.target == "aten.sum.dim_IntList" else None
        if network is None:
            nodes.append(node)
            continue
        x, ids, weights, up, down, activation, gated = network
        rows, choices = graph.values[node.inputs[0]].shape[:2]
        shaped = []
        for name, what in ((ids, "ids"), (weights, "weights")):
            new = f"{node.name}_{what}"
            values.append(replace(graph.values[name], name=new, shape=(rows, choices)))
            args: tuple[Argument, ...] = (Ref(name), (rows, choices))
            nodes.append(replace(node, name=new, target=_RESHAPE, args=args, kwargs=(), outputs=(new,)))
            shaped.append(Ref(new))
        operands = (Ref(x), *shaped, Ref(up), Ref(down), activation, gated)
        nodes.append(replace(node, target="autopar.experts", args=operands, kwargs=()))
    return dead_code(with_nodes(graph, nodes, values))


def _network(graph: Graph, makers: Mapping[str, Node], last: Node) -> tuple[str, str, str, str, str, str, bool] | None:
    """(x, ids, weights, up, down, activation, gated) of the network whose sum over choices `last` is, or None."""
    shaped = maker(makers, last.inputs[0], _RESHAPE)
    dims, keep = last.args[1], last.args[2] if len(last.args) > 2 else False
    if shaped is None or dims != (1,) or keep or last.kwargs:
        return None
    scaled = maker(makers, shaped.inputs[0], "aten.mul.Tensor")
    if scaled is None or len(scaled.inputs) != 2:
        return None
    second = maker(makers, scaled.inputs[0], _LINEAR)
    column = maker(makers, scaled.inputs[1], "aten.unsqueeze.default", _RESHAPE)
    if second is None or column is None:
        return None
    hidden = _activation(graph, makers, second.inputs[0])
    if hidden is None:
        return None
    first, activation, gated = hidden
    rows, choices = graph.values[shaped.outputs[0]].shape[:2]
    x = first.inputs[0] if choices == 1 else _spread_from(graph, makers, makers.get(first.inputs[0]))
    if not _same(makers, first.inputs[2], second.inputs[2]) or x is None or graph.values[x].shape[0] != rows:
        return None
    if graph.values[column.inputs[0]].numel != rows * choices:
        return None
    return x, second.inputs[2], column.inputs[0], first.inputs[1], second.inputs[1], activation, gated


def _same(makers: Mapping[str, Node], name: str, other: str) -> bool:
    """Whether two values are one, or the same view of one."""
    first, second = makers.get(name), makers.get(other)
    if name == other or first is None or second is None:
        return name == other
    return first.target == second.target == _RESHAPE and first.args == second.args


def _activation(graph: Graph, makers: Mapping[str, Node], name: str) -> tuple[Node, str, bool] | None:
    """(first product, activation, gated) of hidden rows ``g(h)`` or ``g(a) * b`` with ``a, b = halves of h``."""
    if node := maker(makers, name, *_ACTIVATIONS):
        product = maker(makers, node.inputs[0], _LINEAR)
        return (product, _called(node), False) if product else None
    node = maker(makers, name, "aten.mul.Tensor")
    if node is None or len(node.inputs) != 2:
        return None
    for gate, value in (node.inputs, node.inputs[::-1]):
        active = maker(makers, gate, *_ACTIVATIONS)
        halves = makers.get(active.inputs[0]) if active else None
        if active is None or halves is None or halves.outputs != (active.inputs[0], value):
            continue
        product = maker(makers, halves.inputs[0], _LINEAR)
        cut = halves.args[2] if len(halves.args) > 2 else 0
        if product and cut in (len(graph.values[value].shape) - 1, -1):
            return product, _called(active), True
    return None


def _called(node: Node) -> str:
    tanh = dict(node.kwargs).get("approximate", node.args[1] if len(node.args) > 1 else "none") == "tanh"
    return _ACTIVATIONS[node.target] + ("_tanh" if tanh else "")


def _spread_from(graph: Graph, makers: Mapping[str, Node], last: Node | None) -> str | None:
    """The x whose rows `last` repeats: repeat_interleave, or reshape of expand of reshape."""
    if last is not None and last.target == "aten.repeat_interleave.self_int":
        whole = dict(last.kwargs).get("output_size") is None
        along = last.args[2] if len(last.args) > 2 else None
        return last.inputs[0] if whole and along == 0 and len(graph.values[last.inputs[0]].shape) == 2 else None
    if last is None or last.target != _RESHAPE:
        return None
    wide = maker(makers, last.inputs[0], "aten.expand.default")
    tall = maker(makers, wide.inputs[0], _RESHAPE) if wide else None
    if wide is None or tall is None:
        return None
    x, shape = graph.values[tall.inputs[0]], graph.values[wide.outputs[0]].shape
    rows = graph.values[last.outputs[0]].shape
    return x.name if len(shape) == 3 and (shape[0], shape[2]) == x.shape and rows[1:] == x.shape[1:] else None
