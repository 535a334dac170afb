"""Regions of a trace, under ``torch.no_grad()`` or autocast: each is a node that runs a graph of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

_REGION = "wrap_with_set_grad_enabled"


def is_region(node: fx.Node) -> bool:
    """Whether a node runs a region without gradients."""
    return str(node.target) == _REGION and node.args[0] is False


def graph_modules(root: nn.Module) -> list[fx.GraphModule]:
    """The graph, and those that its nodes run."""
    return [part for part in root.modules() if isinstance(part, fx.GraphModule)]


def graph_inside(root: fx.GraphModule, node: fx.Node) -> fx.GraphModule | None:
    """The graph that a node runs, of a region without gradients or under autocast; None for any other node."""
    names = [str(source.target) for source in node.all_input_nodes if source.op == "get_attr"]
    region = root.get_submodule(names[0]) if names and isinstance(node.target, torch._ops.HigherOrderOperator) else None
    return region if isinstance(region, fx.GraphModule) else None


def region_graph(root: fx.GraphModule, region: fx.Node) -> fx.GraphModule:
    """The graph inside of a region."""
    inner = graph_inside(root, region)
    assert inner is not None
    return inner


def region_inputs(inner: fx.GraphModule) -> list[fx.Node]:
    """What is handed to a region, in the order of its arguments from the third on."""
    return list(inner.graph.find_nodes(op="placeholder"))


def region_results(inner: fx.GraphModule) -> tuple[Any, ...]:
    """What a region gives back."""
    (output,) = inner.graph.find_nodes(op="output")
    results = output.args[0]
    return tuple(results) if isinstance(results, list | tuple) else (results,)
