"""What is said about a decision: the plan's record, an operator's alternatives, and why a memory limit cannot be met."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

import autopar
from autopar.codegen.steps import Program, conversions
from autopar.costmodel import compute, memory
from autopar.costmodel.machine import parse_bytes
from autopar.errors import ConfigError, InfeasiblePlan, nearest, refusal
from autopar.graph import Node, Value
from autopar.layout import Layouts
from autopar.ops.fallback import FALLBACK
from autopar.ops.rule import Choice
from autopar.partitioner.build import Built, Decision, residents
from autopar.partitioner.problem import NoChoice, Solution
from autopar.partitioner.strategies import Described, Strategy, whole_strategy
from autopar.plan import (
    VERSION,
    AxisChoice,
    ConversionPlan,
    InnerPlan,
    ModelSource,
    NodePlan,
    Options,
    Plan,
    Predicted,
    SolverReport,
    TensorPlan,
)


def options(limit: str | float | None, solver: str, optimizer: str, pins: tuple[str, ...]) -> Options:
    """The user's options as the plan records them."""
    return Options(None if limit is None else float(parse_bytes(limit)), solver, optimizer, pins)


def plan(
    built: Built, solution: Solution, decision: Decision, program: Program, chosen: Options, source: ModelSource
) -> Plan:
    """The record of a decision; the program's hash is filled in when there is a program."""
    graph = built.graph
    resident = residents(graph, built.described)
    nodes = tuple(
        _node(built, built.described[node.name], decision.strategies[node.name], resident[node.name])
        for node in graph.nodes
    )
    converted = _conversions(built, program)
    return Plan(
        version=VERSION,
        autopar=autopar.__version__,
        name=graph.name,
        grid=str(built.grid),
        machine=built.machine.name,
        model=source,
        options=chosen,
        graph_sha256=hashlib.sha256(repr((graph.inputs, graph.parameters, graph.nodes)).encode()).hexdigest(),
        program_sha256="",
        inputs=tuple(
            _tensor(item.name, graph.values[item.value], "input", decision.homes[item.value]) for item in graph.inputs
        ),
        parameters=tuple(
            _tensor(item.name, graph.values[item.value], item.kind, decision.homes[item.value], item.aliases)
            for item in graph.parameters
        ),
        nodes=nodes,
        conversions=converted,
        repeats=tuple((one.prefix, one.members) for one in built.repeats),
        predicted=_predicted(built, decision, nodes, converted, chosen.optimizer),
        single=_single(built, chosen.optimizer),
        solver=SolverReport(
            solution.method,
            solution.cost,
            min(solution.bound, solution.cost),
            len(built.keys),
            sum(len(one) for one in built.options.values()),
        ),
    )


def _tensor(name: str, value: Value, kind: str, layouts: Layouts, aliases: tuple[str, ...] = ()) -> TensorPlan:
    return TensorPlan(name, value.shape, value.dtype, kind, tuple(map(str, layouts)), aliases)


def _choice(choice: Choice) -> AxisChoice:
    operands, results = tuple(map(str, choice.operands)), tuple(map(str, choice.results))
    return AxisChoice(choice.mode, choice.letter, choice.blocks, choice.unit, operands, results)


def _node(built: Built, item: Described, strategy: Strategy, resident: frozenset[str]) -> NodePlan:
    given = (item.call, item.rule, item.op, strategy, built.grid, built.machine)
    forward, backward = compute.node_seconds(*given)
    names = built.grid.names
    inner = tuple(
        InnerPlan(
            one.primitive, names[one.axis], one.bytes_forward, one.bytes_adjoint, one.seconds_forward, one.seconds_adjoint
        )
        for one in compute.inner_conversions(*given)
    )
    saved = memory.saved_bytes(item.call, item.op, strategy, built.grid, resident)
    node, shape = item.node, item.call.results[0].shape
    return NodePlan(
        node.name, node.target, item.op.note, node.module, node.source, node.code, shape,
        tuple(map(_choice, strategy)), forward, backward, int(saved), item.op is not FALLBACK and not item.rule.refused, inner,
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


def _predicted(
    built: Built,
    decision: Decision,
    nodes: Sequence[NodePlan],
    converted: Sequence[ConversionPlan],
    optimizer: str,
) -> Predicted:
    moved = sum(one.times * (one.seconds_forward + one.seconds_adjoint) for one in converted)
    inside = sum(one.seconds_forward + one.seconds_adjoint for node in nodes for one in node.inner)
    values = built.graph.values
    sums = update = 0.0
    held = np.zeros(3)
    for item in built.graph.parameters:
        given = (values[item.value], item.kind, decision.homes[item.value], optimizer, built.grid)
        gradient, step = compute.parameter_seconds(*given, built.machine)
        sums, update = sums + gradient, update + step
        held += np.array(memory.parameter_parts(*given))
    return Predicted(
        compute=sum(node.seconds_forward + node.seconds_backward for node in nodes),
        communication=moved + inside,
        gradients=sums,
        update=update,
        parameters_bytes=int(held[0]),
        gradients_bytes=int(held[1]),
        optimizer_bytes=int(held[2]),
        activations_bytes=sum(node.saved_bytes for node in nodes),
    )


def _single(built: Built, optimizer: str) -> float:
    """Seconds of a step on one rank that holds everything."""
    total = 0.0
    for item in built.described.values():
        whole = whole_strategy(item.call, built.grid)
        total += sum(compute.node_seconds(item.call, item.rule, item.op, whole, built.grid, built.machine))
    for parameter in built.graph.parameters:
        value = built.graph.values[parameter.value]
        home = tuple(choice.operands[0] for choice in _replicated(built))
        total += compute.parameter_seconds(value, parameter.kind, home, optimizer, built.grid, built.machine)[1]
    return total


def _replicated(built: Built) -> Strategy:
    first = next(item for item in built.described.values() if item.call.operands)
    return whole_strategy(first.call, built.grid)


@dataclass(frozen=True, slots=True)
class Alternative:
    """One strategy of a call: what it does per axis, its own seconds, the least conversions around it, and whether chosen.

    `change` is the cost of the whole step against the chosen plan when only this call changes and its neighbours stay.
    """

    choice: tuple[str, ...]
    compute: float
    conversions: float
    change: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """The alternatives of each matching call, cheapest first; calls that share a choice appear once, with their number."""

    calls: tuple[tuple[Node, int, tuple[Alternative, ...]], ...]


def explain(built: Built, choice: Sequence[int], name: str) -> Explanation:
    """Compare what each call named `name` (module path, call name, or a pattern over either) could do instead."""
    matched = [node for node in built.graph.nodes if _matches(node, name)]
    if not matched:
        known = [path for node in built.graph.nodes for path in (node.module, node.name) if path]
        raise ConfigError(
            refusal(f"explain {name!r}", f"no such module or call{nearest(name, known)}", "a name out of `autopar inspect`")
        )
    groups: dict[str, list[Node]] = {}
    for node in matched:
        key = built.tied.get("node:" + node.name, "node:" + node.name)
        groups.setdefault(key, []).append(node)
    return Explanation(
        tuple((nodes[0], len(nodes), _alternatives(built, choice, key)) for key, nodes in groups.items())
    )


def _matches(node: Node, name: str) -> bool:
    inside = node.module == name or node.module.startswith(name + ".")
    return node.name == name or inside or fnmatchcase(node.module, name) or fnmatchcase(node.name, name)


def _alternatives(built: Built, choice: Sequence[int], key: str) -> tuple[Alternative, ...]:
    at = built.keys.index(key)
    own = built.problem.nodes[at].costs
    around = np.zeros(len(own))
    for edge in built.problem.edges:
        if edge.a == at:
            around = around + edge.costs[:, choice[edge.b]]
        elif edge.b == at:
            around = around + edge.costs[choice[edge.a], :]
    total = own + around
    now = choice[at]
    rows = [
        Alternative(
            tuple(map(str, strategy)), float(own[i]), float(around[i]), float(total[i] - total[now]), i == now  # type: ignore[arg-type]
        )
        for i, strategy in enumerate(built.options[key])
        if np.isfinite(total[i])
    ]
    return tuple(sorted(rows, key=lambda row: (row.change, not row.chosen)))


def over_memory(built: Built, error: NoChoice, optimizer: str) -> InfeasiblePlan:
    """Why no plan fits: by how much the limit is missed, what takes the memory, and what would help."""
    graph, limit = built.graph, built.problem.limit
    assert limit is not None
    trained = sum(graph.values[item.value].nbytes for item in graph.parameters if item.kind == "parameter")
    least = error.least_peak
    needs = f"at least {_gib(least)} per rank on grid {built.grid}" if least is not None else "more than that"
    missing = f", {_gib(least - limit)} more than the limit" if least is not None else ""
    fix = f"raise --memory to {_gib(least, up=True)}" if least is not None else "raise --memory"
    return InfeasiblePlan(
        refusal(
            f"memory limit {_gib(limit)} per rank",
            f"{graph.name} needs {needs}{missing}",
            "parameters, gradients, optimizer state and saved activations of a step fit the limit at every time",
            [f"parameters {_gib(trained)} whole, with gradients and {optimizer} state before any split"],
            f"{fix}, use more ranks, a smaller batch, or an optimizer with less state (--optimizer sgd)",
        )
    )


def _gib(size: float, *, up: bool = False) -> str:
    unit, scale = ("GiB", 2**30) if size >= 2**30 else ("MiB", 2**20)
    shown = np.ceil(size / scale * 100) / 100 if up else size / scale
    return f"{shown:.2f}{'' if up else ' '}{unit}"
