"""Write a graph call by call, and compare two graphs by running both."""

import torch

from autopar.ir.graph import Graph, Input, Node, Parameter, Ref, Value, check
from autopar.ops.interpreter import run


class Builder:
    """Writes a graph call by call; shapes and dtypes come from running the calls."""

    def __init__(self):
        self.real, self.nodes, self.inputs, self.parameters, self.values = {}, [], [], [], {}

    def _value(self, name, tensor, flows):
        self.real[name] = tensor
        dtype = str(tensor.dtype).removeprefix("torch.")
        self.values[name] = Value(name, tuple(tensor.shape), dtype, flows and tensor.dtype.is_floating_point)
        return Ref(name)

    def input(self, name, *shape, dtype=torch.float64):
        self.inputs.append(Input(name, name))
        return self._value(name, torch.ones(shape, dtype=dtype), False)

    def parameter(self, name, *shape, kind="parameter"):
        self.parameters.append(Parameter(name, name, kind))
        return self._value(name, torch.ones(shape, dtype=torch.float64), kind == "parameter")

    def call(self, target, *args, outputs=1, **kwargs):
        names = tuple(f"v{len(self.nodes)}_{i}" for i in range(outputs))
        node = Node(names[0], target, args, tuple(sorted(kwargs.items())), names)
        self.real |= run([node], self.real)
        flows = target != "aten.detach.default" and any(self.values[name].differentiable for name in node.inputs)
        refs = [self._value(name, self.real[name], flows) for name in names]
        self.nodes.append(node)
        return refs[0] if outputs == 1 else refs

    def graph(self, loss, updates=()):
        given = tuple(self.inputs), tuple(self.parameters)
        built = Graph("test", *given, tuple(self.nodes), self.values, loss.name, updates)
        check(built)
        return built


def tensors(graph, seed=0):
    draw = torch.Generator().manual_seed(seed)
    names = [item.value for item in (*graph.inputs, *graph.parameters)]
    return {name: torch.rand(graph.values[name].shape, generator=draw, dtype=torch.float64) + 0.1 for name in names}


def assert_equal(before, after):
    check(after)
    given = tensors(before)
    expected = run(before.nodes, given)[before.loss]
    torch.testing.assert_close(run(after.nodes, given)[after.loss], expected, rtol=1e-12, atol=1e-12)
    assert after.values[after.loss].shape == before.values[before.loss].shape


def kinds(graph):
    return [node.target.split(".")[1] for node in graph.nodes]
