"""What follows from a solution: the decision, the steps that carry it out, its calls and conversions, and their timeline.

A step's timeline knows what the prices of single choices do not: gradient sums take one communication lane in turn while backward
computes, and what is left on it when backward ends is waited for (`autopar.costmodel.timeline`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from autopar.codegen.lower import lower
from autopar.codegen.memory_footprint import Footprint, footprint
from autopar.codegen.steps import LoweredProgram, conversions
from autopar.costmodel import compute, step_schedule
from autopar.costmodel.timeline import simulate
from autopar.ir.graph import Graph, Value
from autopar.ir.layout import Layouts
from autopar.ir.plan import AxisChoice, ConversionPlan, InnerPlan, NodePlan, TensorPlan
from autopar.ops.record.rule import Choice
from autopar.partitioner.formulation.priced_problem import Decision, PricedProblem, decide, residents
from autopar.partitioner.formulation.recomputation import kept_bytes
from autopar.partitioner.formulation.strategies import CallStrategies, Strategy
from autopar.partitioner.problem import Solution


@dataclass(frozen=True, slots=True)
class Candidate:
    """A solution of a problem, and what follows from it.

    held        what a rank holds, and when
    gradients   seconds of the gradient sums that do not hide behind backward
    waited      those of them that are waited for when backward has ended
    """

    built: PricedProblem
    solution: Solution
    decision: Decision
    program: LoweredProgram
    parts: step_schedule.Parts
    held: Footprint
    gradients: float
    waited: float

    @property
    def communication(self) -> float:
        """Seconds of conversions, and of what calls exchange inside."""
        moved = sum(move.times * move.seconds for move in self.parts.conversions)
        inside = sum(move.seconds for node in self.parts.nodes for move in node.inner)
        return moved + inside

    @property
    def compute(self) -> float:
        """Seconds of all calls."""
        return sum(node.seconds for node in self.parts.nodes)

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.compute + self.communication + self.gradients + self.parts.update


def candidate_of(built: PricedProblem, solution: Solution, optimizer: str, held: Footprint | None = None) -> Candidate:
    """Carry out a solution on paper. `held` stands for what a rank holds, where nobody is going to ask."""
    decision = decide(built, solution.choice)
    program = lower(built, decision)
    resident = residents(built.graph, built.calls)
    nodes = tuple(
        _often(
            _node(built, built.calls[node.name], decision.strategies[node.name], resident[node.name]),
            built.rounds,
        )
        for node in built.graph.nodes
    )
    repeats = tuple((repeat.prefix, repeat.members) for repeat in built.repeats)
    parts = step_schedule.Parts(
        built.grid, built.machine, nodes, conversion_plans(built, program), repeats, _parameters(built.graph, decision),
        _update(built, decision, optimizer),
    )  # fmt: skip
    listed = step_schedule.tasks(parts)
    sums = [task for task in listed if task.kind == "gradients"]
    gradients = float(simulate(listed, watch=()).exposed[0])
    waited = max(0.0, gradients - sum(task.seconds for task in sums))
    held = held or footprint(built, decision, program, optimizer)
    return Candidate(built, solution, decision, program, parts, held, gradients, waited)


def _parameters(graph: Graph, decision: Decision) -> tuple[TensorPlan, ...]:
    readers = graph.consumers()
    return tuple(
        replace(
            tensor_plan(item.name, graph.values[item.value], item.kind, decision.storage[item.value]),
            aliases=item.aliases,
            readers=tuple(node.name for node in readers[item.value]),
        )
        for item in graph.parameters
    )


def _node(built: PricedProblem, item: CallStrategies, strategy: Strategy, resident: frozenset[str]) -> NodePlan:
    arguments = (item.call, item.rule, item.op, strategy, built.grid, built.machine)
    forward, backward = compute.node_seconds(*arguments, built.timings)
    twice = item.node.name in built.recomputation.calls  # forward runs again, in backward
    names = built.grid.names
    inner = tuple(
        InnerPlan(
            inner.primitive,
            names[inner.axis],
            inner.bytes_forward,
            inner.bytes_adjoint + twice * inner.bytes_forward,
            inner.seconds_forward,
            inner.seconds_adjoint + twice * inner.seconds_forward,
        )
        for inner in compute.inner_conversions(*arguments)
    )
    saved = kept_bytes(item, strategy, built.grid, resident, built.recomputation)
    node, shape = item.node, item.call.results[0].shape
    return NodePlan(
        node.name, node.target, item.op.note, node.module, node.source, node.code, shape,
        tuple(map(_choice, strategy)), forward, backward + twice * forward, saved,
        item.ruled, inner,
    )  # fmt: skip


def _often(node: NodePlan, times: int) -> NodePlan:
    """What a call takes in a step that makes it so many times."""
    inner = tuple(
        replace(
            one, bytes_forward=one.bytes_forward * times, bytes_adjoint=one.bytes_adjoint * times,
            seconds_forward=one.seconds_forward * times, seconds_adjoint=one.seconds_adjoint * times,
        )
        for one in node.inner
    )  # fmt: skip
    seconds = node.seconds_forward * times, node.seconds_backward * times
    return replace(node, seconds_forward=seconds[0], seconds_backward=seconds[1], inner=inner)


def conversion_plans(built: PricedProblem, program: LoweredProgram) -> tuple[ConversionPlan, ...]:
    """The conversions of the steps as records."""
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
            times=times * built.rounds,
            bytes_forward=step.conversion.bytes_forward,
            bytes_adjoint=step.conversion.bytes_adjoint,
            seconds_forward=step.conversion.seconds_forward,
            seconds_adjoint=step.conversion.seconds_adjoint,
        )
        for step, times in conversions(program)
    )


def _update(built: PricedProblem, decision: Decision, optimizer: str) -> float:
    """Seconds of the optimizer's step."""
    values = built.graph.values
    return sum(
        compute.parameter_seconds(
            values[item.value], item.kind, decision.storage[item.value], optimizer, built.grid, built.machine
        )[1]
        for item in built.graph.parameters
    )


def tensor_plan(name: str, value: Value, kind: str, layouts: Layouts) -> TensorPlan:
    """The record of an input or parameter."""
    return TensorPlan(name, value.shape, value.dtype, kind, tuple(map(str, layouts)))


def _choice(choice: Choice) -> AxisChoice:
    operands, results = tuple(map(str, choice.operands)), tuple(map(str, choice.results))
    return AxisChoice(choice.mode, choice.letter, choice.blocks, choice.unit, operands, results)
