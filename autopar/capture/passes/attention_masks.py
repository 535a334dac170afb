"""Attention masks that need no tensor: a mask computed from literals alone is evaluated, and named for what it is.

    every entry allowed            no mask
    entry (i, j) allowed iff j <= i    is_causal=True

Any other mask stays the tensor it is, and the nodes that compute it run on every rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from autopar.capture.passes.rewriting import rewritten, slice_of, static_values
from autopar.ir.graph import Graph, Node, Ref
from autopar.ops.interpreter import run

_TARGET = "aten.scaled_dot_product_attention.default"
_LARGEST = 2**28  # elements of a mask that is worth a look; a larger one is kept


def plain_attention(graph: Graph, constants: Mapping[str, torch.Tensor]) -> Graph:
    """Attention without a mask tensor where the mask allows everything or is causal. `constants`: values by name."""
    static = static_values(graph)
    kinds: dict[tuple[str, int, int], str] = {}

    def rewrite(node: Node) -> Node:
        mask = node.args[3] if node.target == _TARGET and len(node.args) > 3 else None
        if not isinstance(mask, Ref) or mask.name not in static or graph.values[mask.name].numel > _LARGEST:
            return node
        (*_, rows, _), (*_, columns, _) = (graph.values[name].shape for name in node.inputs[:2])
        key = (mask.name, rows, columns)
        if key not in kinds:
            kinds[key] = _kind(graph, *key, constants)
        if kinds[key] == "other":
            return node
        dropout = node.args[4] if len(node.args) > 4 else 0.0
        if kinds[key] == "causal":
            return replace(node, args=(*node.args[:3], None, dropout, True))
        return replace(node, args=node.args[:3] if not dropout else (*node.args[:3], None, dropout))

    return rewritten(graph, rewrite)


def _kind(graph: Graph, name: str, rows: int, columns: int, constants: Mapping[str, torch.Tensor]) -> str:
    """What a mask of queries (`rows`) against keys (`columns`) is: ``"all"``, ``"causal"`` or ``"other"``."""
    nodes = slice_of(graph, name)
    read = {value for node in nodes for value in node.inputs} | {name}
    needed = {item.value: item.name for item in graph.parameters if item.value in read}
    if any(math.prod(graph.values[out].shape) > _LARGEST for node in nodes for out in node.outputs if out):
        return "other"
    if any(key not in constants for key in needed.values()):
        return "other"
    allowed = _allowed(run(nodes, {value: constants[key] for value, key in needed.items()})[name])
    if allowed is None:
        return "other"
    if bool(allowed.all()):
        return "all"
    causal = torch.ones(rows, columns, dtype=torch.bool).tril()
    return "causal" if bool((allowed == causal).all()) else "other"  # a mask that is one row for all is not causal


def _allowed(mask: torch.Tensor) -> torch.Tensor | None:
    """The mask as booleans; None where it adds other numbers than 0 and minus infinity (or the lowest number)."""
    if mask.dtype == torch.bool:
        return mask
    allowed = mask == 0
    hidden = mask <= torch.finfo(mask.dtype).min
    return allowed if bool((allowed | hidden).all()) else None
