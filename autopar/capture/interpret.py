"""Run a Graph as it is written, one ATen call after the other: the definition of what its nodes mean.

It evaluates constant subgraphs during capture, and is the oracle against which everything later may be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any, cast

import torch
import torch.nn.functional as F

from autopar.graph import Argument, Dtype, Graph, Node, Ref

Tensor = torch.Tensor


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``autopar.affine``: x[..., k] @ weight[k, n] + bias[n]."""
    return x @ weight if bias is None else x @ weight + bias


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``autopar.batch_norm``: x normalised by its own statistics, and the running statistics after this step."""
    new_mean, new_var = mean.detach().clone(), var.detach().clone()
    return F.batch_norm(x, new_mean, new_var, weight, bias, True, momentum, eps), new_mean, new_var


_OWN: dict[str, Callable[..., object]] = {"autopar.affine": affine, "autopar.batch_norm": batch_norm}


def operator(target: str) -> Callable[..., object]:
    """The function that a node's target names: ``"aten.linear.default"`` or one of our own."""
    if target in _OWN:
        return _OWN[target]
    found: Any = reduce(getattr, target.split("."), torch.ops)
    return cast("Callable[..., object]", found)


def run(nodes: Iterable[Node], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All values after running the nodes, from the tensors of inputs and parameters by value name."""
    env = dict(tensors)
    for node in nodes:
        args = [_tensor(arg, env) for arg in node.args]
        result = operator(node.target)(*args, **{key: _tensor(value, env) for key, value in node.kwargs})
        results = [result] if isinstance(result, Tensor) else result
        assert isinstance(results, list | tuple)
        env |= {name: tensor for name, tensor in zip(node.outputs, results, strict=True) if name}
    return env


def loss_of(graph: Graph, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensor:
    """The loss of the graph for inputs and parameters given by their user names."""
    return run(graph.nodes, bind(graph, inputs, state))[graph.loss]


def bind(graph: Graph, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by value name, from inputs and parameters by user name."""
    given = {item.value: inputs[item.name] for item in graph.inputs}
    return given | {item.value: state[item.name] for item in graph.parameters}


def _tensor(argument: Argument, env: Mapping[str, Tensor]) -> object:
    if isinstance(argument, Ref):
        return env[argument.name]
    if isinstance(argument, Dtype):
        return getattr(torch, argument.name)
    if isinstance(argument, tuple):
        return [_tensor(item, env) for item in argument]
    return argument
