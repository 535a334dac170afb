"""Readable names for the values of a graph: Python identifiers, unique, the same every time.

An input keeps its name. The single result of a module without children is called after the attribute (``c_fc``), parts
of a tuple after the variables that the user unpacks them into, a buffer's new value after the buffer, any other result
after its operator (``transpose``). The second of a kind is ``c_fc_1``. Parameters are called after their path.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from autopar.capture.passes.rewriting import read_instead
from autopar.ir.graph import Graph, Node

# Words that a generated program uses for something else.
_RUNTIME = (
    "all_gather all_sum all_to_all avg_pool batch_norm conv conv_transpose copy cross_entropy forward gather keep main "
    "group_norm interpolate layer_norm log_softmax pad rms_norm softmax "
    "max_pool once reduce_scatter split take zero_fill math p torch self Copied F Grid Partial Program Replicate Shard"
)
RESERVED = frozenset({*keyword.kwlist, *keyword.softkwlist, *dir(builtins), *_RUNTIME.split()})
_SHORT = {
    "scaled_dot_product_attention": "attention",
    "cross_entropy_loss": "loss",
    "mse_loss": "loss",
    "_to_copy": "cast",
}


def rename(graph: Graph) -> Graph:
    """The same graph under readable names; nodes are called after their first result."""
    names: dict[str, str] = {}
    taken: set[str] = set(RESERVED)
    numbers: dict[str, int] = {}

    def give(value: str, wish: str) -> None:
        names[value] = _unique(_identifier(wish), taken, numbers)
        taken.add(names[value])

    for item in graph.inputs:
        give(item.value, item.name)
    if graph.loss not in names and all(graph.loss != item.value for item in graph.parameters):
        give(graph.loss, "loss")
    for path, value in graph.outputs:
        known = value in names or any(value == item.value for item in graph.parameters)
        if not known and not path.rsplit(".", 1)[-1].isdecimal():
            give(value, path.rsplit(".", 1)[-1])
    leaves = _single_results(graph)
    counters = {value: buffer.rsplit(".", 1)[-1] for buffer, value in graph.updates}
    for node in graph.nodes:
        for value, wish in zip(node.outputs, _wishes(node, leaves), strict=True):
            if value and value not in names:
                give(value, counters.get(value, wish) if len(node.outputs) == 1 else wish)
    for parameter in graph.parameters:
        if parameter.value not in names:
            give(parameter.value, parameter.name)
    return _renamed(graph, names)


def _renamed(graph: Graph, names: dict[str, str]) -> Graph:
    nodes = []
    for node in graph.nodes:
        outputs = tuple(names[name] if name else "" for name in node.outputs)
        nodes.append(replace(read_instead(node, names), name=next(filter(None, outputs)), outputs=outputs))
    return Graph(
        graph.name,
        tuple(replace(item, value=names[item.value]) for item in graph.inputs),
        tuple(replace(item, value=names[item.value]) for item in graph.parameters),
        tuple(nodes),
        {names[name]: replace(value, name=names[name]) for name, value in graph.values.items()},
        names[graph.loss],
        tuple((buffer, names[value]) for buffer, value in graph.updates),
        tuple((path, names[value]) for path, value in graph.outputs),
        graph.loss_path,
    )


def _single_results(graph: Graph) -> frozenset[str]:
    """Nodes that are all that a module without children does, the counting of a batch norm's batches aside."""
    counters = {value for _, value in graph.updates}
    main = [
        node for node in graph.nodes if node.module and not (len(node.outputs) == 1 and node.outputs[0] in counters)
    ]
    count = Counter(node.module for node in main)
    parents = {node.module.rsplit(".", depth)[0] for node in main for depth in range(1, node.module.count(".") + 1)}
    return frozenset(node.name for node in main if count[node.module] == 1 and node.module not in parents)


def _wishes(node: Node, leaves: frozenset[str]) -> Iterable[str]:
    """What each result would like to be called."""
    parts = node.target.split(".")
    base = _SHORT.get(parts[1], parts[1].strip("_"))
    if parts[0] != "aten":  # an operator or a function of the user's
        base = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", base).lower()
    path = node.module.split(".")
    if node.name in leaves:
        base = f"{path[-2]}_{path[-1]}" if path[-1].isdigit() and len(path) > 1 else path[-1]
    if node.target == "autopar.batch_norm":
        base = base if node.name in leaves else "norm"
        return (base, f"{base}_mean", f"{base}_var")
    if len(node.outputs) == 1:
        return (base,)
    unpacked = _unpacked(node.code)
    return unpacked if len(unpacked) == len(node.outputs) else tuple(f"{base}_{i}" for i in range(len(node.outputs)))


def _unpacked(code: str) -> tuple[str, ...]:
    """The variables of a line like ``q, k, v = f(x)``; () for any other line."""
    try:
        (statement,) = ast.parse(code.strip()).body
    except (SyntaxError, ValueError):
        return ()
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    if not isinstance(target, ast.Tuple | ast.List) or not all(isinstance(item, ast.Name) for item in target.elts):
        return ()
    return tuple(item.id for item in target.elts if isinstance(item, ast.Name))


def _identifier(wish: str) -> str:
    text = re.sub(r"\W", "_", wish)
    return f"x{text}" if not text or text[0].isdigit() else text


def _unique(wish: str, taken: set[str], numbers: dict[str, int]) -> str:
    """`wish` if it is free, else with the lowest free number, or an underscore after a reserved word.

    `numbers` remembers from where on numbers of a wish may be free: names are never given back.
    """
    if wish not in taken:
        return wish
    if wish in RESERVED and f"{wish}_" not in taken:
        return f"{wish}_"
    number = numbers.get(wish, 1)
    while f"{wish}_{number}" in taken:
        number += 1
    numbers[wish] = number
    return f"{wish}_{number}"
