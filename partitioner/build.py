"""From a graph to the abstract problem, and from its solution back to decisions.

Variables: one per call (its strategy), one per parameter and input (its home layouts), and one *fan* per tensor that several
calls read: the layouts it is converted to once for all of them. Costs: a call's compute and inner communication, a
parameter's gradient sum and update, and on every edge the conversion from what the producer yields to what the reader needs. Calls
of repeated blocks share a variable, whose cost is the sum over the blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autopar.costmodel import compute, memory, redistribute
from autopar.costmodel.local import local_bytes
from autopar.costmodel.machine import Machine
from autopar.costmodel.timings import UNMEASURED, Timings
from autopar.graph import ITEMSIZE, Graph, Node, Ref
from autopar.grid import GridShape
from autopar.layout import Layouts, Replicate, Shard
from autopar.partitioner import blocks
from autopar.partitioner.problem import Choices, Edge, Problem
from autopar.partitioner.strategies import (
    Described,
    Strategy,
    demands,
    describe,
    homes,
    operand_layouts,
    result_layouts,
    unique,
)

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Built:
    """The problem of one graph on one grid, with what its variables mean.

    keys      per variable ``"node:NAME"``, ``"home:VALUE"`` or ``"fan:VALUE"``
    options   per variable its strategies (of a call) or layouts (of a tensor)
    tied      key of a later block's variable -> key of the first block's, which stands for it
    """

    graph: Graph
    grid: GridShape
    machine: Machine
    described: Mapping[str, Described]
    repeats: tuple[blocks.Repeat, ...]
    keys: tuple[str, ...]
    options: Mapping[str, Sequence[Strategy] | Sequence[Layouts]]
    tied: Mapping[str, str]
    problem: Problem
    timings: Timings = UNMEASURED


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided: a strategy per call, home layouts per parameter and input, and for a tensor that several calls read the
    layouts to which it is converted once for all of them."""

    strategies: Mapping[str, Strategy]
    homes: Mapping[str, Layouts]
    fans: Mapping[str, Layouts]


def build(
    graph: Graph,
    grid: GridShape,
    machine: Machine,
    *,
    limit: float | None,
    optimizer: str,
    pins: Mapping[str, Mapping[int, str]],
    gathered: bool,
    timings: Timings = UNMEASURED,
) -> Built:
    """Price everything. `limit` is bytes per rank or None; `optimizer` one of ``sgd``, ``momentum``, ``adamw``.

    `gathered` allows parameters to be stored in parts and gathered for use; `timings` are taken in place of predicted seconds.
    """
    described = describe(graph, grid, pins)
    repeats = tuple(one for one in blocks.find(graph) if _same_options(one, described))
    draft = _Draft(
        graph, grid, machine, described, optimizer, gathered,
        frozenset() if gathered else frozenset(item.value for item in graph.parameters), _ties(graph, repeats),
        repeats, graph.producers(), graph.consumers(), residents(graph, described), running_statistics(graph), timings,
    )  # fmt: skip
    draft.add_homes()
    draft.add_calls()
    draft.add_edges()
    keys = tuple(draft.options)
    position = {key: i for i, key in enumerate(keys)}
    nodes = tuple(Choices(key, draft.costs[key], draft.bytes[key], *draft.spans[key]) for key in keys)
    edges = tuple(Edge(position[a], position[b], costs) for (a, b), costs in draft.edges.items())
    return Built(
        graph, grid, machine, described, repeats, keys, draft.options, draft.tied, Problem(nodes, edges, limit), timings
    )


def _given(graph: Graph) -> list[str]:
    """The values that no call makes: parameters, then inputs."""
    return [item.value for item in graph.parameters] + [item.value for item in graph.inputs]


def residents(graph: Graph, described: Mapping[str, Described]) -> dict[str, frozenset[str]]:
    """Per call, the values that are held anyway when it runs: parameters, inputs, and what an earlier call keeps for backward."""
    held = set(_given(graph))
    found = {}
    for node in graph.nodes:
        found[node.name] = frozenset(held & {*node.inputs, *node.outputs})
        saves = described[node.name].op.saves
        held |= set(node.inputs if saves == "inputs" else node.outputs if saves == "output" else ())
    return found


def running_statistics(graph: Graph) -> frozenset[str]:
    """The values that batch norms change in place, before and after: they are read where they are stored, and never converted."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.target == "autopar.batch_norm":
            found |= {one.name for one in node.args[3:5] if isinstance(one, Ref)} | set(filter(None, node.outputs[1:]))
    return frozenset(found)


def decide(built: Built, choice: Sequence[int]) -> Decision:
    """What a solution of the problem says about the graph."""
    chosen = {key: built.options[key][index] for key, index in zip(built.keys, choice, strict=True)}

    def of(key: str) -> object:
        return chosen[built.tied.get(key, key)]

    strategies = {node.name: of("node:" + node.name) for node in built.graph.nodes}
    outside = _given(built.graph)
    fanned = [name for name in built.graph.values if built.tied.get("fan:" + name, "fan:" + name) in chosen]
    return Decision(
        strategies,  # type: ignore[arg-type]
        {name: of("home:" + name) for name in outside},  # type: ignore[misc]
        {name: of("fan:" + name) for name in fanned},  # type: ignore[misc]
    )


def _same_options(repeat: blocks.Repeat, described: Mapping[str, Described]) -> bool:
    first = [described[node.name].strategies for node in repeat.nodes[0]]
    return all([described[node.name].strategies for node in nodes] == first for nodes in repeat.nodes[1:])


def _ties(graph: Graph, repeats: Sequence[blocks.Repeat]) -> dict[str, str]:
    """The variables of later blocks by those of the first. A parameter that others read as well has a fan of its own."""
    outside = set(_given(graph))
    readers = graph.consumers()
    tied: dict[str, str] = {}
    for key, first in blocks.representatives(repeats).items():
        kind, name = key.split(":", 1)
        tied["fan:" + name if kind == "value" else key] = "fan:" + first.split(":", 1)[1] if kind == "value" else first
    for repeat in repeats:
        for nodes in repeat.nodes[1:]:
            for node, first_node in zip(nodes, repeat.nodes[0], strict=True):
                for name, first_name in zip(node.inputs, first_node.inputs, strict=True):
                    if name in outside:
                        _tie(tied, "home:" + name, "home:" + first_name)
                        if {*readers[name]} <= {*nodes} and {*readers[first_name]} <= {*repeat.nodes[0]}:
                            _tie(tied, "fan:" + name, "fan:" + first_name)
    return {key: _root(tied, key) for key in tied}


def _tie(tied: dict[str, str], key: str, other: str) -> None:
    """Let two variables be one, together with all that are tied to them already."""
    key, other = _root(tied, key), _root(tied, other)
    if key != other:
        tied[key] = other


def _root(tied: Mapping[str, str], key: str) -> str:
    while key in tied:
        key = tied[key]
    return key


@dataclass(slots=True)
class _Draft:
    """The problem while it is put together."""

    graph: Graph
    grid: GridShape
    machine: Machine
    described: Mapping[str, Described]
    optimizer: str
    gathered: bool
    whole_use: frozenset[str]  # parameters that may not be stored in parts and used whole
    tied: dict[str, str]
    repeats: Sequence[blocks.Repeat]
    makers: Mapping[str, Node]
    readers: Mapping[str, tuple[Node, ...]]
    resident: Mapping[str, frozenset[str]]
    fixed: frozenset[str]
    timings: Timings
    options: dict[str, Sequence[Strategy] | Sequence[Layouts]] = field(default_factory=dict)
    costs: dict[str, Matrix] = field(default_factory=dict)
    bytes: dict[str, Matrix] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    edges: dict[tuple[str, str], Matrix] = field(default_factory=dict)
    matrices: dict[tuple[object, ...], Matrix] = field(default_factory=dict)

    def put(
        self,
        key: str,
        options: Sequence[Strategy] | Sequence[Layouts],
        costs: Sequence[float],
        held: Sequence[float],
        span: tuple[int, int],
    ) -> None:
        """Add a variable, or add to the one it is tied to."""
        key = self.tied.get(key, key)
        if key in self.options:
            start, stop = self.spans[key]
            self.costs[key] = self.costs[key] + np.array(costs)
            self.bytes[key] = self.bytes[key] + np.array(held)
            self.spans[key] = (min(start, span[0]), max(stop, span[1]))
        else:
            self.options[key] = options
            self.costs[key], self.bytes[key], self.spans[key] = np.array(costs), np.array(held), span

    def add_homes(self) -> None:
        """Parameters and inputs: gradient sums and updates, and their bytes, held from the first step to the last."""
        demanded = demands(self.graph, self.described)
        span = (0, 2 * len(self.graph.nodes))
        for item in self.graph.inputs:
            value = self.graph.values[item.value]
            options = homes(value, demanded[item.value], self.grid, gathered=False)
            held = [local_bytes(value.shape, ITEMSIZE[value.dtype], home, self.grid) for home in options]
            self.put("home:" + item.value, options, [0.0] * len(options), held, span)
        for parameter in self.graph.parameters:
            value = self.graph.values[parameter.value]
            first = self.tied.get("home:" + parameter.value, "home:" + parameter.value).removeprefix("home:")
            options = homes(self.graph.values[first], demanded[first], self.grid, gathered=self.gathered)
            costs = [
                sum(compute.parameter_seconds(value, parameter.kind, home, self.optimizer, self.grid, self.machine))
                for home in options
            ]
            held = [memory.parameter_bytes(value, parameter.kind, home, self.optimizer, self.grid) for home in options]
            self.put("home:" + parameter.value, options, costs, held, span)

    def add_calls(self) -> None:
        """Calls: compute, inner communication, and what they keep for backward until then."""
        steps = 2 * len(self.graph.nodes)
        memo: dict[str, tuple[list[float], list[float]]] = {}
        for i, node in enumerate(self.graph.nodes):
            item = self.described[node.name]
            key = self.tied.get("node:" + node.name, "node:" + node.name)
            if key in self.options:
                costs, held = memo[key]
            else:
                costs = [self.call_seconds(item, strategy) for strategy in item.strategies]
                resident = self.resident[node.name]
                held = [
                    memory.saved_bytes(item.call, item.op, strategy, self.grid, resident)
                    for strategy in item.strategies
                ]
                memo[key] = (costs, held)
            self.put("node:" + node.name, item.strategies, costs, held, (i, steps - i))

    def call_seconds(self, item: Described, strategy: Strategy) -> float:
        """Forward and backward seconds of a call on one rank, its inner communication included."""
        given = (item.call, item.rule, item.op, strategy, self.grid, self.machine)
        forward, backward = compute.node_seconds(*given, self.timings)
        inner = compute.inner_conversions(*given)
        return forward + backward + sum(one.seconds_forward + one.seconds_adjoint for one in inner)

    def add_edges(self) -> None:
        """Conversions: from the producer, through a fan where several calls read the tensor, to each reader."""
        targets = dict(self.graph.updates)
        handed = {repeat.values[0][position] for repeat in self.repeats for _, position in repeat.carried}
        for name in self.graph.values:
            source, yields = self.source(name)
            times = 2 if name in handed else 1  # what enters the first block is converted as what it hands on
            uses = self.uses(name)
            if len({reader for reader, _ in uses}) > 1:
                source, yields = self.fan(name, source, yields, uses, times)
            for reader, wants in uses:
                self.link(name, source, yields, reader, wants, times)
        for buffer, name in targets.items():
            home = next(item.value for item in self.graph.parameters if item.name == buffer)
            source, yields = self.source(name)
            options = self.options[self.tied.get("home:" + home, "home:" + home)]
            self.link(name, source, yields, "home:" + home, options)  # type: ignore[arg-type]
        source, yields = self.source(self.graph.loss)
        whole: Layouts = tuple(Replicate() for _ in self.grid.sizes)
        key = self.tied.get(source, source)
        self.costs[key] = self.costs[key] + self.matrix(self.graph.loss, yields, (whole,))[:, 0]

    def uses(self, name: str) -> list[tuple[str, Sequence[Layouts]]]:
        """The variables that ask for a value, and the layouts of their options.

        What enters a loop does so as a block hands it on, and is converted for its readers inside.
        """
        entered = [(one, at) for one in self.repeats for entry, at in one.carried if one.entries[entry] == name]
        inside = {node.name for repeat, _ in entered for node in repeat.nodes[0]}
        found: list[tuple[str, Sequence[Layouts]]] = [
            ("node:" + node.name, _operand(self.described[node.name], operand))
            for node in self.readers[name]
            if node.name not in inside
            for operand in _places(node.inputs, name)
        ]
        return found + [self.source(repeat.values[0][position]) for repeat, position in entered]

    def source(self, name: str) -> tuple[str, Sequence[Layouts]]:
        """The variable that decides how a value is made, and per option the layouts it is made in."""
        if name in self.makers:
            node = self.makers[name]
            result = node.outputs.index(name)
            strategies = self.described[node.name].strategies
            return "node:" + node.name, tuple(result_layouts(one, result) for one in strategies)
        key = "home:" + name
        return key, self.options[self.tied.get(key, key)]  # type: ignore[return-value]

    def fan(
        self,
        name: str,
        source: str,
        yields: Sequence[Layouts],
        uses: Sequence[tuple[str, Sequence[Layouts]]],
        times: int,
    ) -> tuple[str, Sequence[Layouts]]:
        """A variable for the layouts that a tensor is converted to once for all its readers."""
        key = "fan:" + name
        options: Sequence[Layouts] = unique([*yields, *(one for _, wants in uses for one in wants)])
        known = self.options.get(self.tied.get(key, key), options)
        assert set(known) == set(options), f"{key} is tied to {self.tied.get(key)}, which has other options"
        nothing = [0.0] * len(known)
        self.put(key, known, nothing, nothing, (0, 1))
        self.link(name, source, yields, key, known, times)  # type: ignore[arg-type]
        return key, known  # type: ignore[return-value]

    def link(
        self,
        name: str,
        source: str,
        yields: Sequence[Layouts],
        reader: str,
        wants: Sequence[Layouts],
        times: int = 1,
    ) -> None:
        """Add the conversion of a value between two variables, so many times, to their edge."""
        a, b = self.tied.get(source, source), self.tied.get(reader, reader)
        costs = self.matrix(name, yields, wants) * times
        if name in self.whole_use:
            costs = costs + _gathering(yields, wants)
        if a == b:  # one block's result is the next block's operand, and the blocks share the variable
            self.costs[a] = self.costs[a] + np.diagonal(costs)
        elif (b, a) in self.edges:
            self.edges[b, a] = self.edges[b, a] + costs.T
        else:
            self.edges[a, b] = self.edges.get((a, b), 0.0) + costs

    def matrix(self, name: str, yields: Sequence[Layouts], wants: Sequence[Layouts]) -> Matrix:
        """Seconds of converting a value, forward and adjoint, from every option of its maker to every option of a reader."""
        if name in self.fixed:
            return np.array([[0.0 if one == other else np.inf for other in wants] for one in yields])
        value = self.graph.values[name]
        rows, columns = unique(yields), unique(wants)
        key = (value.shape, value.dtype, value.differentiable, rows, columns)
        if key not in self.matrices:
            self.matrices[key] = redistribute.conversion_matrix(
                value.shape, ITEMSIZE[value.dtype], value.differentiable, rows, columns, self.grid, self.machine
            )
        at_row = {layouts: i for i, layouts in enumerate(rows)}
        at_column = {layouts: i for i, layouts in enumerate(columns)}
        pick = np.ix_([at_row[one] for one in yields], [at_column[one] for one in wants])
        return self.matrices[key][pick]


def _gathering(yields: Sequence[Layouts], wants: Sequence[Layouts]) -> Matrix:
    """Infinite where a parameter that lies in parts over some axis would be made whole over it."""
    made, used = (
        np.array([[isinstance(one, Shard) for one in layouts] for layouts in side]) for side in (yields, wants)
    )
    lost = (made[:, None, :] & ~used[None, :, :]).any(axis=2)
    return np.where(lost, np.inf, 0.0)


def _operand(item: Described, operand: int) -> tuple[Layouts, ...]:
    return tuple(operand_layouts(strategy, operand) for strategy in item.strategies)


def _places(inputs: Sequence[str], name: str) -> list[int]:
    return [i for i, given in enumerate(inputs) if given == name]
