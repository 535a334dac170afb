"""The dataflow graph of a model: our own small frozen record, free of torch.fx.

A graph is a list of nodes in execution order. Every tensor is a `Value` with a name; a node reads values and yields values.
Arguments that are not tensors stay in the node as plain literals, so that a node can be printed back as a call.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from autopar.ir.layout import Shard

ITEMSIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex64": 8, "complex128": 16,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
OPTIMIZER_COPIES = {"sgd": 0, "momentum": 1, "adamw": 2}
"""How many tensors of a parameter's size an optimizer keeps."""


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor: its name in the program, shape, dtype (``"float32"``), and whether a gradient flows through it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    differentiable: bool

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.numel * ITEMSIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor argument: the name of the value it reads."""

    name: str


@dataclass(frozen=True, slots=True)
class Dtype:
    """A dtype argument, by name: ``Dtype("float32")`` prints as ``torch.float32``."""

    name: str


# What an argument of a node may be: None, bool, int, float, complex, str, Ref, Dtype, or a tuple of these.
Argument = object


@dataclass(frozen=True, slots=True)
class Node:
    """One operator call.

    `target` is the ATen overload (``"aten.linear.default"``), `args` its positional arguments in the ATen schema's order with
    every default filled in up to the last one given, `kwargs` the rest as sorted pairs. `outputs` names one value per tensor
    result (an unused result is an empty string). `module` is the path of the module that made the call (``"h.0.mlp"``),
    `source` where the user's code stands (``"model.py:12"``), `code` that line's text. `whole` says why the call runs whole on
    every rank, whatever its record says; empty where the record holds.
    """

    name: str
    target: str
    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...]
    outputs: tuple[str, ...]
    module: str = ""
    source: str = ""
    code: str = ""
    whole: str = ""
    inputs: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Names of the tensors read, in order of appearance in the arguments, repeats kept."""

    def __post_init__(self) -> None:
        refs = _refs((self.args, tuple(value for _, value in self.kwargs)))
        object.__setattr__(self, "inputs", tuple(ref.name for ref in refs))


def _refs(argument: Argument) -> Iterator[Ref]:
    if isinstance(argument, Ref):
        yield argument
    elif isinstance(argument, tuple):
        for item in argument:
            yield from _refs(item)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter or buffer: `name` as in the user's ``state_dict``, the value it is in the graph, other names tied to it."""

    name: str
    value: str
    kind: str  # "parameter", "frozen" (a parameter without gradient), "buffer", or "constant" (not in the state_dict)
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor the user passes: `name` is its keyword or parameter name, `value` its value in the graph."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class BatchDivision:
    """What makes a graph that of a micro-batch: its loss and gradients are addends of those of the whole batch.

    `counts` are the inputs, by name, that are no inputs of the model's: counts of the whole batch. `outputs` says of each of
    the graph's outputs what it is of that of the whole batch: ``"shard 0"``, its rows; ``"partial"``, an addend; ``"mean"``, the
    mean over its rows; ``"replicate"``, the same in every micro-batch. `drawn` has per call that draws random numbers, by name,
    how its result lies over the micro-batches.
    """

    counts: tuple[str, ...]
    outputs: tuple[str, ...]
    drawn: tuple[tuple[str, Shard], ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """A functional graph: inputs, parameters, nodes in execution order, the loss, and the buffers that a step updates.

    `outputs` are the other results of forward that the program returns, by their path in what forward returns;
    `loss_path` is the loss's. `division` is that of a micro-batch's graph, None of a whole batch's.
    """

    name: str
    inputs: tuple[Input, ...]
    parameters: tuple[Parameter, ...]
    nodes: tuple[Node, ...]
    values: dict[str, Value]
    loss: str
    updates: tuple[tuple[str, str], ...] = ()  # (name of the buffer, name of the value that replaces it after the step)
    outputs: tuple[tuple[str, str], ...] = ()  # (path in what forward returns, name of the value)
    loss_path: str = ""
    division: BatchDivision | None = None

    @property
    def returned(self) -> tuple[str, ...]:
        """The values that leave the program: the loss, then the outputs."""
        return (self.loss, *(value for _, value in self.outputs))

    @property
    def given(self) -> tuple[Input, ...]:
        """The inputs that the user passes: all but counts of the whole batch."""
        counts = self.division.counts if self.division is not None else ()
        return tuple(item for item in self.inputs if item.name not in counts)

    @property
    def external(self) -> frozenset[str]:
        """The values that no call makes: inputs and parameters."""
        return frozenset([item.value for item in self.inputs] + [item.value for item in self.parameters])

    def inputs_of(self, value: str) -> tuple[str, ...]:
        """The names of the inputs that a value is made of, in the order of forward's arguments."""
        needed = {value}
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
        return tuple(item.name for item in self.given if item.value in needed)

    def producers(self) -> dict[str, Node]:
        """The node that yields each value; inputs and parameters have none."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def consumers(self) -> dict[str, tuple[Node, ...]]:
        """The nodes that read each value, each once, in execution order."""
        readers: dict[str, list[Node]] = {name: [] for name in self.values}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers[name].append(node)
        return {name: tuple(nodes) for name, nodes in readers.items()}


def check(graph: Graph) -> None:
    """Assert that the graph is well formed: every read value was made before, every name once, every value described."""
    known = [item.value for item in graph.inputs] + [item.value for item in graph.parameters]
    assert len(known) == len(set(known)), "an input or parameter value is named twice"
    ready = set(known)
    for node in graph.nodes:
        missing = [name for name in node.inputs if name not in ready]
        assert not missing, f"{node.name} reads {missing} before it is made"
        for name in filter(None, node.outputs):
            assert name not in ready, f"{node.name} makes {name} a second time"
            ready.add(name)
    assert ready == set(graph.values), f"undescribed or unmade values: {sorted(ready ^ set(graph.values))}"
    assert all(name in ready for name in graph.returned), f"one of the outputs {graph.returned} is never made"
    buffers = {item.name for item in graph.parameters}
    assert all(name in buffers and value in ready for name, value in graph.updates), "an update of an unknown buffer"
