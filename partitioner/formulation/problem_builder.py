"""The abstract problem while it is put together from a graph: variables with their costs, bytes and spans, and edges.

    `add_storage`   parameters and inputs: gradient sum, update, bytes held all the time
    `add_calls`     compute and inner communication, bytes saved for backward
    `add_edges`     conversions, through a *fan-out* where several calls read a tensor

Calls of repeated blocks are added to the variable of the first block's call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from autopar.costmodel import compute, memory
from autopar.costmodel.local_shapes import local_bytes
from autopar.costmodel.op_timings import Timings
from autopar.ir.graph import ITEMSIZE, Graph, Node, Value
from autopar.ir.grid import GridShape
from autopar.ir.layout import Layouts, Replicate
from autopar.ir.machine import Machine
from autopar.partitioner.formulation.constraints import Constraints, allowed_storage_layouts
from autopar.partitioner.formulation.conversion_costs import Conversions, Matrix
from autopar.partitioner.formulation.recomputation import Recomputation, kept_bytes
from autopar.partitioner.formulation.repeated_blocks import Repeat
from autopar.partitioner.formulation.strategies import (
    CallStrategies,
    Strategy,
    demands,
    gathered_storage_layouts,
    storage_layouts,
    unique,
)


@dataclass(frozen=True, slots=True)
class ProblemBuilder:
    """The problem while it is put together."""

    graph: Graph
    grid: GridShape
    machine: Machine
    calls: Mapping[str, CallStrategies]
    optimizer: str
    constraints: Constraints
    stored: frozenset[str]  # parameters that may be stored in parts and gathered for use
    parameters: frozenset[str]
    tied: dict[str, str]
    repeats: Sequence[Repeat]
    makers: Mapping[str, Node]
    readers: Mapping[str, tuple[Node, ...]]
    resident: Mapping[str, frozenset[str]]
    fixed: frozenset[str]
    timings: Timings
    conversions: Conversions
    recomputation: Recomputation
    scarce: tuple[tuple[GridShape, float], ...]  # what kinds of ranks see, and how many times their bytes count
    plain: dict[str, int] = field(
        default_factory=dict
    )  # per parameter its storage layouts that are used as they lie: the first ones
    options: dict[str, Sequence[Strategy] | Sequence[Layouts]] = field(default_factory=dict)
    costs: dict[str, Matrix] = field(default_factory=dict)
    bytes: dict[str, Matrix] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    edges: dict[tuple[str, str], Matrix] = field(default_factory=dict)
    fanned: dict[tuple[int, ...], tuple[object, Sequence[Layouts]]] = field(default_factory=dict)

    def add_variable(
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

    def most(self, size: Callable[[GridShape], float]) -> float:
        """Bytes of the rank for which they are most, those of ranks with less memory counted for more."""
        return max((times * size(grid) for grid, times in self.scarce), default=0.0) if self.scarce else size(self.grid)

    def add_storage(self) -> None:
        """Parameters and inputs: gradient sums and updates, and their bytes, held from the first step to the last."""
        demanded = demands(self.graph, self.calls)
        span = (0, 2 * len(self.graph.nodes))
        for item in self.graph.inputs:
            value = self.graph.values[item.value]
            options = storage_layouts(value, demanded[item.value], self.grid)
            options = allowed_storage_layouts(self.constraints, item.value, options, self.grid)
            held = [self.stored_bytes(value, stored) for stored in options]
            self.add_variable("storage:" + item.value, options, [0.0] * len(options), held, span)
        known: dict[tuple[object, ...], tuple[Sequence[Layouts], list[float], list[float]]] = {}
        for parameter in self.graph.parameters:
            value = self.graph.values[parameter.value]
            first = self.tied.get("storage:" + parameter.value, "storage:" + parameter.value).removeprefix("storage:")
            key = (first, value.shape, value.dtype, parameter.kind)
            if key not in known:
                known[key] = self.priced_storage(parameter.kind, self.graph.values[first], demanded[first])
            self.add_variable("storage:" + parameter.value, *known[key], span)

    def priced_storage(
        self, kind: str, value: Value, demanded: Sequence[Layouts]
    ) -> tuple[Sequence[Layouts], list[float], list[float]]:
        """Where a parameter may live, with the seconds of its gradient sum and update and its bytes.

        Homes that are used as they lie come first; then those that are gathered for use, with the bytes of what they are gathered
        to, which is kept until backward. A layout may be both.
        """
        plain = storage_layouts(value, demanded, self.grid)
        gathered = gathered_storage_layouts(value, demanded, self.grid) if value.name in self.stored else {}
        kept = dict.fromkeys(
            allowed_storage_layouts(self.constraints, value.name, dict.fromkeys([*plain, *gathered]), self.grid)
        )
        options = [layouts for layouts in (*plain, *gathered) if layouts in kept]
        self.plain[value.name] = sum(layouts in kept for layouts in plain)
        arguments = (self.optimizer, self.grid, self.machine)
        costs = [sum(compute.parameter_seconds(value, kind, stored, *arguments)) for stored in options]
        held = [self.most(partial(memory.parameter_bytes, value, kind, stored, self.optimizer)) for stored in options]
        for at in range(self.plain[value.name], len(options)):
            held[at] += self.stored_bytes(value, gathered[options[at]])
        return options, costs, held

    def stored_bytes(self, value: Value, layouts: Layouts) -> float:
        """Bytes of a value that lies so."""
        return self.most(partial(local_bytes, value.shape, ITEMSIZE[value.dtype], layouts))

    def add_calls(self) -> None:
        """Calls: compute, inner communication, and what they keep for backward until then."""
        steps = 2 * len(self.graph.nodes)
        memo: dict[tuple[object, ...], tuple[list[float], list[float]]] = {}
        priced: dict[
            tuple[object, ...], list[float]
        ] = {}  # calls that are alike share their strategies, and cost the same
        for i, node in enumerate(self.graph.nodes):
            item = self.calls[node.name]
            key = (self.tied.get("node:" + node.name, "node:" + node.name), node.name in self.recomputation.later)
            if key not in memo:
                timed = node.name if self.timings.seconds else ""
                alike = (id(item.strategies), node.name in self.recomputation.calls, timed)
                if not key[1] and alike not in priced:
                    priced[alike] = [self.call_seconds(item, s) for s in item.strategies]
                costs = memo[key[0], not key[1]][0] if key[1] else priced[alike]
                memo[key] = costs, [self.kept(item, strategy) for strategy in item.strategies]
            self.add_variable("node:" + node.name, item.strategies, *memo[key], (i, steps - i))

    def kept(self, item: CallStrategies, strategy: Strategy) -> float:
        """Bytes that a call keeps for backward."""
        resident = self.resident[item.node.name]
        return self.most(lambda grid: kept_bytes(item, strategy, grid, resident, self.recomputation))

    def call_seconds(self, item: CallStrategies, strategy: Strategy) -> float:
        """Seconds of a call on one rank: forward and backward, what it sends included, and forward again where it is."""
        arguments = (item.call, item.rule, item.op, strategy, self.grid, self.machine)
        forward, backward = compute.node_seconds(*arguments, self.timings)
        inner = compute.inner_conversions(*arguments)
        forward += sum(transfer.seconds_forward for transfer in inner)
        backward += sum(transfer.seconds_adjoint for transfer in inner)
        return forward + backward + (forward if item.node.name in self.recomputation.calls else 0.0)

    def add_edges(self) -> None:
        """Conversions: from the producer, through a fan-out where several calls read the tensor, to each reader."""
        targets = dict(self.graph.updates)
        handed = {repeat.values[0][position] for repeat in self.repeats for _, position in repeat.carried}
        for name in self.graph.values:
            source, yields = self.source(name)
            times = 2 if name in handed else 1  # what enters the first block is converted as what it hands on
            uses, runs = self.uses(name), self.runs(name)
            if len({reader for reader, _ in uses}) > 1:
                source, yields = self.fan_out(name, source, yields, uses, times, runs)
                if any(reader.removeprefix("node:") in self.recomputation.calls for reader, _ in uses):
                    runs = 2
            for reader, wants in uses:
                self.add_conversion(name, source, yields, reader, wants, times, runs)
        for buffer, name in targets.items():
            stored = next(item.value for item in self.graph.parameters if item.name == buffer)
            source, yields = self.source(name)
            options = self.options[self.tied.get("storage:" + stored, "storage:" + stored)]
            self.add_conversion(name, source, yields, "storage:" + stored, options)  # type: ignore[arg-type]
        source, yields = self.source(self.graph.loss)
        whole: Layouts = tuple(Replicate() for _ in self.grid.sizes)
        key = self.tied.get(source, source)
        self.costs[key] = self.costs[key] + self.seconds(self.graph.loss, yields, (whole,))[:, 0]

    def runs(self, name: str) -> int:
        """How often forward converts a value in a step: twice inside a block that is computed again."""
        readers = [node.name for node in self.readers[name]]
        repeated = name not in self.makers or self.makers[name].name in self.recomputation.calls
        return 2 if repeated and readers and all(reader in self.recomputation.calls for reader in readers) else 1

    def uses(self, name: str) -> list[tuple[str, Sequence[Layouts]]]:
        """The variables that ask for a value, and the layouts of their options.

        What enters a loop does so as a block hands it on, and is converted for its readers inside.
        """
        entered = [
            (repeat, at) for repeat in self.repeats for entry, at in repeat.carried if repeat.entries[entry] == name
        ]
        inside = {node.name for repeat, _ in entered for node in repeat.nodes[0]}
        uses: list[tuple[str, Sequence[Layouts]]] = [
            ("node:" + node.name, self.conversions.operands(self.calls[node.name], operand))
            for node in self.readers[name]
            if node.name not in inside
            for operand in _places(node.inputs, name)
        ]
        return uses + [self.source(repeat.values[0][position]) for repeat, position in entered]

    def source(self, name: str) -> tuple[str, Sequence[Layouts]]:
        """The variable that decides how a value is made, and per option the layouts it is made in."""
        if name in self.makers:
            node = self.makers[name]
            result = node.outputs.index(name)
            return "node:" + node.name, self.conversions.results(self.calls[node.name], result)
        key = "storage:" + name
        return key, self.options[self.tied.get(key, key)]  # type: ignore[return-value]

    def fan_out(
        self,
        name: str,
        source: str,
        yields: Sequence[Layouts],
        uses: Sequence[tuple[str, Sequence[Layouts]]],
        times: int,
        runs: int,
    ) -> tuple[str, Sequence[Layouts]]:
        """A variable for the layouts that a tensor is converted to once for all its readers."""
        key = "fan_out:" + name
        options = self.layouts((yields, *(wants for _, wants in uses)))
        known = self.options.get(self.tied.get(key, key), options)
        if known is not options:
            assert set(known) == set(options), f"{key} is tied to {self.tied.get(key)}, which has other options"
        nothing = [0.0] * len(known)
        self.add_variable(key, known, nothing, nothing, (0, 1))
        self.add_conversion(name, source, yields, key, known, times, runs)  # type: ignore[arg-type]
        return key, known  # type: ignore[return-value]

    def layouts(self, lists: tuple[Sequence[Layouts], ...]) -> Sequence[Layouts]:
        """The distinct layouts of several lists of options; the same object for the same lists."""
        key = tuple(map(id, lists))
        if key not in self.fanned:
            self.fanned[key] = lists, unique(layouts for options in lists for layouts in options)
        return self.fanned[key][1]

    def add_conversion(
        self,
        name: str,
        source: str,
        yields: Sequence[Layouts],
        reader: str,
        wants: Sequence[Layouts],
        times: int = 1,
        runs: int = 1,
    ) -> None:
        """Add the conversion of a value between two variables, so many times, to their edge; each runs forward `runs` times."""
        a, b = self.tied.get(source, source), self.tied.get(reader, reader)
        costs = self.seconds(name, yields, wants, runs) * times
        if name in self.parameters:
            barred = self.conversions.whole(yields, wants)
            if source.startswith("storage:"):
                plain = self.plain[a.removeprefix("storage:")]
                barred = np.where(np.arange(len(yields))[:, None] < plain, barred, 0.0)
            costs = costs + barred
        if a == b:  # one block's result is the next block's operand, and the blocks share the variable
            self.costs[a] = self.costs[a] + np.diagonal(costs)
        elif (b, a) in self.edges:
            self.edges[b, a] = self.edges[b, a] + costs.T
        else:
            self.edges[a, b] = self.edges.get((a, b), 0.0) + costs

    def seconds(self, name: str, yields: Sequence[Layouts], wants: Sequence[Layouts], runs: int = 1) -> Matrix:
        """Seconds of converting a value between all options; what batch norms change in place is never converted."""
        if name in self.fixed:
            return np.array([[0.0 if layouts == other else np.inf for other in wants] for layouts in yields])
        return self.conversions.seconds(self.graph.values[name], yields, wants, runs)


def _places(inputs: Sequence[str], name: str) -> list[int]:
    return [i for i, operand in enumerate(inputs) if operand == name]
