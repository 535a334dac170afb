"""From a decision to steps (`autopar.codegen.steps`): the conversions between what calls yield and what calls ask for.

A call reads its operands in the layouts that its strategy asks for; where a value is not held in that layout yet, it is
converted from the cheapest one held, once for all later readers of the same function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autopar.codegen.division import GraphDivision
from autopar.codegen.steps import Convert, LocalValue, Loop, LoweredProgram, LoweredSegment, Run, Step, Update
from autopar.costmodel.local_shapes import local_bytes
from autopar.costmodel.redistribution import Conversion, plan_conversion
from autopar.ir.graph import ITEMSIZE, Graph, Node
from autopar.ir.layout import Layout, Layouts, Partial, Replicate, Shard
from autopar.partitioner.formulation.priced_problem import Decision, PricedProblem
from autopar.partitioner.formulation.recomputation import key_of
from autopar.partitioner.formulation.repeated_blocks import Repeat
from autopar.partitioner.formulation.strategies import operand_layouts, result_layouts

_Updates = Mapping[str, Sequence[tuple[str, str, str]]]
"""By the call after which they happen: buffer, the buffer's own value, its new value."""


def lower(built: PricedProblem, decision: Decision, division: GraphDivision | None = None) -> LoweredProgram:
    """The steps that carry out the decision, in segments where the graph is divided."""
    graph = built.graph
    divided = division is not None
    division = division or GraphDivision({node.name: 0 for node in graph.nodes}, (0,))
    scopes: list[_Scope] = []
    handed: dict[str, Layouts] = {}  # as it lies when it leaves its segment
    returned: dict[str, LocalValue] = {}
    ends: list[tuple[LocalValue, ...]] = []
    for segment in range(len(division.positions)):
        storage = {name: [layouts] for name, layouts in decision.storage.items()}
        entries = {name: [layouts] for name, layouts in handed.items()}
        scope = _Scope(built, decision, _updates(graph), storage | entries, dict(decision.fan_outs))
        nodes = [node for node in graph.nodes if division.segments[node.name] == segment]
        scope.carry_out(nodes)
        # [value] -> [LocalValue]: what the program returns, then what other segments read
        values = {name for node in nodes for name in node.outputs}
        if graph.loss in values:
            whole: Layouts = tuple(Replicate() for _ in built.grid.sizes)
            returned[graph.loss] = scope.convert(graph.loss, whole, "", "")
        returned |= {name: scope.leave(name) for _, name in graph.outputs if name in values and name != graph.loss}
        crossing = division.crossing(graph, segment)
        handed |= {name: scope.cheapest(name) for name in crossing}
        leaving = [LocalValue(name, handed[name]) for name in crossing]
        ends.append(tuple(dict.fromkeys([*(returned[name] for name in graph.returned if name in values), *leaving])))
        scopes.append(scope)
    steps = [_needed(scope.steps, end) for scope, end in zip(scopes, ends, strict=True)]
    parts = zip(division.positions, steps, ends, division.draws(built), strict=True)
    segments = tuple(LoweredSegment(at, body, _reads(body, built), end, draws) for at, body, end, draws in parts)
    loss, *outputs = (returned[name] for name in graph.returned)
    program = LoweredProgram(tuple(step for body in steps for step in body), loss, tuple(outputs))
    return replace(program, segments=segments) if divided else program


def _reads(steps: Sequence[Step], built: PricedProblem) -> tuple[LocalValue, ...]:
    """What the steps read that none of them makes, but parameters, in order."""
    stored = {item.value for item in built.graph.parameters}
    written: set[LocalValue | None] = set()
    read: dict[LocalValue, None] = {}
    for step in steps:
        reads = step.reads if isinstance(step.reads, tuple) else (step.reads,)
        read |= dict.fromkeys(held for held in reads if held not in written and held.value not in stored)
        writes = () if isinstance(step, Update) else step.writes
        written |= set(writes) if isinstance(writes, tuple) else {writes}
    return tuple(read)


def _needed(steps: Sequence[Step], outputs: Sequence[LocalValue]) -> tuple[Step, ...]:
    """The steps without conversions that nobody reads, because a later one found a cheaper source."""
    read = set(outputs)
    kept: list[Step] = []
    for step in reversed(steps):
        if not isinstance(step, Convert) or step.writes in read:
            kept.append(step)
            read |= set(step.reads) if isinstance(step.reads, tuple) else {step.reads}
    return tuple(kept[::-1])


def _updates(graph: Graph) -> _Updates:
    """The buffer updates by the call that they follow: the one that makes the value, or the last that reads the old one."""
    storage = {item.name: item.value for item in graph.parameters}
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    makers, readers = graph.producers(), graph.consumers()
    updates: dict[str, list[tuple[str, str, str]]] = {}
    for buffer, value in graph.updates:
        after = max((makers[value], *readers[storage[buffer]]), key=lambda node: order[node.name])
        updates.setdefault(after.name, []).append((buffer, storage[buffer], value))
    return updates


class _Scope:
    """The steps of one function while they are collected, and what its variables hold."""

    def __init__(
        self,
        built: PricedProblem,
        decision: Decision,
        updates: _Updates,
        held: dict[str, list[Layouts]],
        fan_outs: dict[str, Layouts],
        runs: int = 1,
    ) -> None:
        self.built = built
        self.decision = decision
        self.updates = updates
        self.held = held
        self.fan_outs = fan_outs
        self.runs = runs  # of forward in a step
        self.steps: list[Step] = []

    def carry_out(self, nodes: Sequence[Node]) -> None:
        """Add these calls; those of whole blocks that repeat, one behind the other, as a loop."""
        here = {node.name for node in nodes}
        first: dict[str, tuple[Repeat, str]] = {}
        inside: set[str] = set()
        for repeat in self.built.repeats:
            for start, stop in _stretches([all(node.name in here for node in block) for block in repeat.nodes]):
                blocks = repeat.part(start, stop)
                first[blocks.nodes[0][0].name] = blocks, key_of(repeat)
                inside |= {node.name for block in blocks.nodes for node in block}
        for node in nodes:
            if node.name in first:
                self.loop(*first[node.name])
            elif node.name not in inside:
                self.run(node)

    def cheapest(self, name: str) -> Layouts:
        """The layouts in which the fewest bytes of a value move; of equal ones the last that was made."""
        value = self.built.graph.values[name]
        have = self.held[name][::-1]
        return min(have, key=lambda layouts: local_bytes(value.shape, ITEMSIZE[value.dtype], layouts, self.built.grid))

    def obtain(self, name: str, target: Layouts, reader: str, module: str) -> LocalValue:
        """A value for a call: where it is not held in the wanted layouts yet, by way of those that all its readers share."""
        if target not in self.held[name] and name in self.fan_outs:
            self.convert(name, self.fan_outs[name], reader, module)
        return self.convert(name, target, reader, module)

    def convert(self, name: str, target: Layouts, reader: str, module: str) -> LocalValue:
        """A value in the wanted layouts, converted in the cheapest way where it is not held so yet."""
        have = self.held[name]
        if target in have:
            return LocalValue(name, target)
        plans = [self._conversions(name, layouts, target) for layouts in have]
        for conversion in min(plans, key=lambda plan: sum(conversion.seconds for conversion in plan)):
            before, after = LocalValue(name, conversion.before), LocalValue(name, conversion.after)
            if conversion.after not in have:
                self.steps.append(Convert(conversion, before, after, reader, module))
                have.append(conversion.after)
        return LocalValue(name, target)

    def leave(self, name: str) -> LocalValue:
        """A value as it leaves the program: as it lies, unless that is a sum still to be made, or parts of blocks."""
        plain = [layouts for layouts in self.held[name] if all(map(_leaves, layouts))]
        if plain:
            return LocalValue(name, plain[0])
        target = tuple(layout if _leaves(layout) else Replicate() for layout in self.held[name][0])
        return self.convert(name, target, "", "")

    def _conversions(self, name: str, source: Layouts, target: Layouts) -> tuple[Conversion, ...]:
        value = self.built.graph.values[name]
        itemsize = ITEMSIZE[value.dtype]
        grid, machine = self.built.grid, self.built.machine
        chain = plan_conversion(value.shape, itemsize, value.differentiable, source, target, grid, machine, self.runs)
        return tuple(map(_run_again, chain)) if self.runs > 1 else chain

    def run(self, node: Node) -> None:
        """Add a call, and the buffer updates that its results are."""
        item = self.built.calls[node.name]
        strategy = self.decision.strategies[node.name]
        reads = tuple(
            self.obtain(name, operand_layouts(strategy, i), node.name, node.module)
            for i, name in enumerate(node.inputs)
        )
        writes = tuple(
            LocalValue(name, result_layouts(strategy, i)) if name else None for i, name in enumerate(node.outputs)
        )
        self.steps.append(Run(item, strategy, reads, writes))
        for written in filter(None, writes):
            self.held.setdefault(written.value, []).append(written.layouts)
        for buffer, stored, name in self.updates.get(node.name, ()):
            taken = self.convert(name, self.decision.storage[stored], "", node.module)
            self.steps.append(Update(buffer, stored, taken))

    def loop(self, repeat: Repeat, key: str) -> None:
        """Add the loop over a repeat, known by `key`.

        Its entries lie as a block hands them on, so that every round sees the same.
        """
        outputs = tuple(self._block_value(repeat, 0, position) for position in repeat.outputs())
        carried = tuple((entry, repeat.outputs().index(position)) for entry, position in repeat.carried)
        over = dict(carried)
        entries, reads = [], []
        fan_outs = dict(self.decision.fan_outs)
        for i, name in enumerate(repeat.entries):
            layouts = outputs[over[i]].layouts if i in over else self.fan_outs[name]
            entries.append(LocalValue(name, layouts))
            reads.append(self.obtain(name, layouts, "", repeat.prefix))
            value = outputs[over[i]].value if i in over else name
            fan_outs[name] = self.decision.fan_outs.get(value, layouts)
        storage = {name: [layouts] for name, layouts in self.decision.storage.items()}
        recomputed = key in self.decision.recomputation.repeats
        initial = storage | {held.value: [held.layouts] for held in entries}
        inner = _Scope(self.built, self.decision, self.updates, initial, fan_outs, 2 if recomputed else 1)
        for node in repeat.nodes[0]:
            inner.run(node)
        last = len(repeat.nodes) - 1
        writes = tuple(self._block_value(repeat, last, position) for position in repeat.outputs())
        body = _needed(inner.steps, outputs)
        self.steps.append(Loop(repeat, body, tuple(entries), outputs, carried, tuple(reads), writes, recomputed, key))
        for held in writes:
            self.held[held.value] = [held.layouts]

    def _block_value(self, repeat: Repeat, block: int, position: int) -> LocalValue:
        """The value at this position among a block's own values, as the block makes it."""
        name = repeat.values[block][position]
        node = next(node for node in repeat.nodes[block] if name in node.outputs)
        strategy = self.decision.strategies[repeat.nodes[0][repeat.nodes[block].index(node)].name]
        return LocalValue(name, result_layouts(strategy, node.outputs.index(name)))


def _stretches(chosen: Sequence[bool]) -> list[tuple[int, int]]:
    """Where runs of chosen ones begin and end.

    >>> _stretches([True, True, False, True])
    [(0, 2), (3, 4)]
    """
    bounds = [i for i in range(len(chosen) + 1) if (i > 0 and chosen[i - 1]) != (i < len(chosen) and chosen[i])]
    return list(zip(bounds[::2], bounds[1::2], strict=True))


def _run_again(conversion: Conversion) -> Conversion:
    """The conversion with the second run of its forward counted where it happens, in backward."""
    sent = conversion.bytes_forward + conversion.bytes_adjoint
    return replace(conversion, bytes_adjoint=sent, seconds_adjoint=conversion.seconds)


def _leaves(layout: Layout) -> bool:
    if isinstance(layout, Shard):
        return (layout.blocks, layout.unit) == (1, 1)
    return not isinstance(layout, Partial)
