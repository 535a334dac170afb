"""What is said about a decision: the plan's record, and why a memory limit cannot be met."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import autopar
from autopar import tasks
from autopar.codegen.batch import Variant, run_for
from autopar.codegen.held import Footprint, footprint
from autopar.codegen.steps import Program, conversions
from autopar.costmodel import compute
from autopar.costmodel.timeline import simulate
from autopar.graph import Graph, Value
from autopar.layout import Layouts
from autopar.ops.fallback import FALLBACK
from autopar.ops.rule import Choice
from autopar.partitioner.again import kept_bytes, key_of
from autopar.partitioner.build import Built, Decision, residents
from autopar.partitioner.problem import Solution
from autopar.partitioner.strategies import Described, Strategy, filled_factors, whole_strategy
from autopar.plan import (
    VERSION,
    AxisChoice,
    BatchPlan,
    ConversionPlan,
    InnerPlan,
    ModelSource,
    NodePlan,
    Options,
    OutputPlan,
    Plan,
    Predicted,
    SolverReport,
    TensorPlan,
)


def plan(
    built: Built, solution: Solution, decision: Decision, program: Program, chosen: Options, source: ModelSource
) -> Plan:
    """The record of a decision; what the program says of itself is filled in when there is a program."""
    graph = built.graph
    resident = residents(graph, built.described)
    nodes = tuple(
        _node(built, built.described[node.name], decision.strategies[node.name], resident[node.name])
        for node in graph.nodes
    )
    converted = _conversions(built, program)
    parameters = _parameters(graph, decision)
    repeats = tuple((one.prefix, one.members) for one in built.repeats)
    update = _update(built, decision, chosen.optimizer)
    parts = tasks.Parts(built.grid, built.machine, nodes, converted, repeats, parameters, update)
    return Plan(
        version=VERSION,
        autopar=autopar.__version__,
        name=graph.name,
        grid=str(built.grid),
        machine=built.machine,
        model=source,
        options=chosen,
        graph_sha256=_hash(graph),
        program_sha256="",
        inputs=tuple(
            _tensor(item.name, graph.values[item.value], "input", decision.homes[item.value]) for item in graph.inputs
        ),
        parameters=parameters,
        nodes=nodes,
        conversions=converted,
        repeats=repeats,
        recomputed=tuple(key_of(one) in built.again.repeats for one in built.repeats),
        predicted=_predicted(parts, footprint(built, decision, program, chosen.optimizer)),
        single=_single(built, chosen.optimizer),
        solver=SolverReport(
            solution.method,
            solution.cost,
            max(0.0, min(solution.bound, solution.cost)),
            len(built.keys),
            sum(len(one) for one in built.options.values()),
            built.tied_loss,
        ),
        filled=_filled(built, decision),
        batch=BatchPlan(0, (), "no input has rows", ()),
        evaluation="",
        loss=graph.loss_path,
        outputs=(),
        places=(),
    )


def _parameters(graph: Graph, decision: Decision) -> tuple[TensorPlan, ...]:
    readers = graph.consumers()
    return tuple(
        replace(
            _tensor(item.name, graph.values[item.value], item.kind, decision.homes[item.value]),
            aliases=item.aliases,
            readers=tuple(node.name for node in readers[item.value]),
        )
        for item in graph.parameters
    )


def outputs(graph: Graph, larger: Graph | None, program: Program) -> tuple[OutputPlan, ...]:
    """What the program returns beside the loss; `larger` is the graph with more rows."""
    found = []
    for (path, name), held in zip(graph.outputs, program.outputs, strict=True):
        one = graph.values[name]
        more = larger.values[name].shape if larger is not None else one.shape
        rows = tuple(dim for dim, (n, m) in enumerate(zip(one.shape, more, strict=True)) if n != m)
        found.append(OutputPlan(path, one.shape, one.dtype, tuple(map(str, held.layouts)), rows))
    return tuple(found)


def _filled(built: Built, decision: Decision) -> tuple[tuple[tuple[str, ...], int], ...]:
    """The factors of which every rank needs a row, by the names of the axes of more than one rank that cut them."""
    grid = built.grid
    found = {
        (tuple(grid.names[axis] for axis in axes), extent)
        for name, strategy in decision.strategies.items()
        for axes, extent in filled_factors(built.described[name].rule, strategy)
    }
    return tuple(sorted(found))


def filled_by_rows(built: Built, decision: Decision, variant: Variant) -> tuple[tuple[tuple[str, ...], int], ...]:
    """Those of the filled factors that grow with the batch."""
    found = set()
    for name, strategy in decision.strategies.items():
        item = built.described[name]
        described, other = run_for(variant, item, strategy)
        pairs = zip(
            sorted(filled_factors(item.rule, strategy)), sorted(filled_factors(described.rule, other)), strict=True
        )
        found |= {(axes, extent) for (axes, extent), (_, more) in pairs if extent != more}
    return tuple(sorted((tuple(built.grid.names[axis] for axis in axes), extent) for axes, extent in found))


def _hash(graph: Graph) -> str:
    """Of everything that a graph is: two graphs with one hash are the same model on the same inputs."""
    parts = (
        graph.inputs,
        graph.parameters,
        graph.nodes,
        sorted(graph.values.items()),
        graph.loss,
        graph.outputs,
        graph.updates,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _tensor(name: str, value: Value, kind: str, layouts: Layouts) -> TensorPlan:
    return TensorPlan(name, value.shape, value.dtype, kind, tuple(map(str, layouts)))


def _choice(choice: Choice) -> AxisChoice:
    operands, results = tuple(map(str, choice.operands)), tuple(map(str, choice.results))
    return AxisChoice(choice.mode, choice.letter, choice.blocks, choice.unit, operands, results)


def _node(built: Built, item: Described, strategy: Strategy, resident: frozenset[str]) -> NodePlan:
    given = (item.call, item.rule, item.op, strategy, built.grid, built.machine)
    forward, backward = compute.node_seconds(*given, built.timings)
    twice = item.node.name in built.again.calls  # forward runs again, in backward
    names = built.grid.names
    inner = tuple(
        InnerPlan(
            one.primitive,
            names[one.axis],
            one.bytes_forward,
            one.bytes_adjoint + twice * one.bytes_forward,
            one.seconds_forward,
            one.seconds_adjoint + twice * one.seconds_forward,
        )
        for one in compute.inner_conversions(*given)
    )
    saved = kept_bytes(item, strategy, built.grid, resident, built.again)
    node, shape = item.node, item.call.results[0].shape
    return NodePlan(
        node.name, node.target, item.op.note, node.module, node.source, node.code, shape,
        tuple(map(_choice, strategy)), forward, backward + twice * forward, saved,
        item.op is not FALLBACK and not item.rule.refused, inner,
    )  # fmt: skip


def exchanged(node: NodePlan) -> tuple[float, float, float]:
    """Bytes forward, bytes back and seconds that a call exchanges inside."""
    return (
        sum(one.bytes_forward for one in node.inner),
        sum(one.bytes_adjoint for one in node.inner),
        sum(one.seconds_forward + one.seconds_adjoint for one in node.inner),
    )


def _conversions(built: Built, program: Program) -> tuple[ConversionPlan, ...]:
    names = built.grid.names
    return tuple(
        ConversionPlan(
            value=step.reads.value,
            primitive=step.conversion.primitive,
            axis=names[step.conversion.axis],
            before=tuple(map(str, step.conversion.before)),
            after=tuple(map(str, step.conversion.after)),
            consumers=(step.reader,) if step.reader else (),
            module=step.module,
            times=times,
            bytes_forward=step.conversion.bytes_forward,
            bytes_adjoint=step.conversion.bytes_adjoint,
            seconds_forward=step.conversion.seconds_forward,
            seconds_adjoint=step.conversion.seconds_adjoint,
        )
        for step, times in conversions(program)
    )


def _update(built: Built, decision: Decision, optimizer: str) -> float:
    """Seconds of the optimizer's step."""
    values = built.graph.values
    return sum(
        compute.parameter_seconds(
            values[item.value], item.kind, decision.homes[item.value], optimizer, built.grid, built.machine
        )[1]
        for item in built.graph.parameters
    )


def _predicted(parts: tasks.Parts, held: Footprint) -> Predicted:
    moved = sum(one.times * (one.seconds_forward + one.seconds_adjoint) for one in parts.conversions)
    inside = sum(one.seconds_forward + one.seconds_adjoint for node in parts.nodes for one in node.inner)
    return Predicted(
        compute=sum(node.seconds_forward + node.seconds_backward for node in parts.nodes),
        communication=moved + inside,
        gradients=float(simulate(tasks.tasks(parts), watch=()).exposed[0]),
        update=parts.update,
        peak_during=held.where(held.at),
        **{f"{kind}_bytes": size for kind, size in held.parts(held.at).items()},
    )


def _single(built: Built, optimizer: str) -> float:
    """Seconds of a step on one rank that holds everything."""
    total = 0.0
    for item in built.described.values():
        whole = whole_strategy(item.call, built.grid)
        given = (item.call, item.rule, item.op, whole, built.grid, built.machine)
        total += sum(compute.node_seconds(*given, built.timings))
    for parameter in built.graph.parameters:
        value = built.graph.values[parameter.value]
        home = tuple(choice.operands[0] for choice in _replicated(built))
        total += compute.parameter_seconds(value, parameter.kind, home, optimizer, built.grid, built.machine)[1]
    return total


def _replicated(built: Built) -> Strategy:
    first = next(item for item in built.described.values() if item.call.operands)
    return whole_strategy(first.call, built.grid)
