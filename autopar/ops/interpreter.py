"""Run a Graph as it is written, one ATen call after the other: the definition of what its nodes mean.

It evaluates constant subgraphs during capture, and is the oracle against which everything later may be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch

from autopar.ir.graph import Graph, Node
from autopar.ops.record.overloads import evaluated, overload_of
from autopar.ops.registry import record_of

Tensor = torch.Tensor


def operator(target: str) -> Callable[..., object]:
    """The function that a node's target names: ``"aten.linear.default"``, or one of our own, which its record defines."""
    if target.startswith("autopar."):
        op = record_of(target)
        means = op.means if op is not None else None
        assert means is not None, f"no record says what {target} means"
        return means
    return cast("Callable[..., object]", overload_of(target))


def run(nodes: Iterable[Node], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All values after running the nodes, from the tensors of inputs and parameters by value name."""
    env = dict(tensors)
    for node in nodes:
        args = [evaluated(arg, env) for arg in node.args]
        result = operator(node.target)(*args, **{key: evaluated(value, env) for key, value in node.kwargs})
        results = [result] if isinstance(result, Tensor) else result
        assert isinstance(results, list | tuple)
        env |= {name: tensor for name, tensor in zip(node.outputs, results, strict=True) if name}
    return env


def loss_of(graph: Graph, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensor:
    """The loss of the graph for inputs and parameters given by their user names."""
    return run(graph.nodes, bind(graph, inputs, state))[graph.loss]


def bind(graph: Graph, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by value name, from inputs and parameters by user name."""
    values = {item.value: inputs[item.name] for item in graph.inputs}
    return values | {item.value: state[item.name] for item in graph.parameters}
