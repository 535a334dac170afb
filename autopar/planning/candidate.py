"""What follows from a solution: the decision, the steps that carry it out, its calls and conversions, and their timeline.

A step's timeline knows what the prices of single choices do not: gradient sums take one communication lane in turn while backward
computes, and what is left on it when backward ends is waited for (`autopar.costmodel.timeline`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autopar.codegen.lower import lower
from autopar.codegen.memory_footprint import Footprint
from autopar.codegen.steps import LoweredProgram, conversions
from autopar.costmodel import compute, step_schedule
from autopar.costmodel.rank_views import RankView
from autopar.costmodel.timeline import simulate
from autopar.ir.graph import Graph, Parameter, Value
from autopar.ir.layout import Layouts
from autopar.ir.plan import AxisChoice, ConversionPlan, InnerPlan, NodePlan, RankPlan, TensorPlan
from autopar.ops.record.rule import Choice
from autopar.partitioner.formulation.priced_problem import Decision, PricedProblem, decide, residents
from autopar.partitioner.formulation.recomputation import kept_bytes
from autopar.partitioner.formulation.strategies import CallStrategies, Strategy
from autopar.partitioner.problem import Solution
from autopar.planning.unequal.rank_loads import footprints, kinds_of, rank_plans, shares


@dataclass(frozen=True, slots=True)
class Candidate:
    """A solution of a problem, and what follows from it.

    held        what a rank holds, and when: where ranks are not alike, the one whose memory is scarcest
    gradients   seconds of the gradient sums that do not hide behind backward
    waited      those of them that are waited for when backward has ended
    ranks       where they are not alike, what each of them takes and holds
    critical    of these, the rank that waits least: seconds are its own
    idle        seconds for which it waits all the same
    """

    built: PricedProblem
    solution: Solution
    decision: Decision
    program: LoweredProgram
    parts: step_schedule.Parts
    held: Footprint
    gradients: float
    waited: float
    ranks: tuple[RankPlan, ...] = ()
    critical: int = 0
    idle: float = 0.0

    @property
    def communication(self) -> float:
        """Seconds of conversions, and of what calls exchange inside."""
        moved = sum(move.times * move.seconds for move in self.parts.conversions)
        inside = sum(move.seconds for node in self.parts.nodes for move in node.inner)
        return moved + inside

    @property
    def compute(self) -> float:
        """Seconds of all calls."""
        return self.ranks[self.critical].compute if self.ranks else sum(node.seconds for node in self.parts.nodes)

    @property
    def update(self) -> float:
        """Seconds of the optimizer's step."""
        return self.ranks[self.critical].update if self.ranks else self.parts.update

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.compute + self.communication + self.gradients + self.update + self.idle

    @property
    def peak(self) -> float:
        """The most bytes that a rank holds; those of ranks with less memory than others count for as many times more."""
        most = max(self.built.memories, default=0.0)
        return max((rank.peak * most / rank.memory for rank in self.ranks if rank.memory), default=self.held.peak)


def candidate_of(built: PricedProblem, solution: Solution, optimizer: str, held: Footprint | None = None) -> Candidate:
    """Carry out a solution on paper. `held` stands for what a rank holds, where nobody is going to ask."""
    decision = decide(built, solution.choice)
    program = lower(built, decision)
    nodes, kinds = call_plans(built, decision), kinds_of(built, decision)
    items = built.graph.parameters
    updates = [update_seconds(built, decision, items, optimizer, kind) for kind in kinds or [None]]
    repeats = tuple((repeat.prefix, repeat.members) for repeat in built.repeats)
    parts = step_schedule.Parts(
        built.grid, built.machine, nodes, conversion_plans(built, program), repeats, _parameters(built.graph, decision),
        max(updates), shares(kinds, updates),
    )  # fmt: skip
    listed = step_schedule.tasks(parts)
    sums = [task for task in listed if task.kind == "gradients"]
    step = simulate(listed, built.grid.sizes if kinds else (), watch=())
    critical = step.critical if kinds else 0
    gradients, idle = float(step.exposed[critical]), float(step.waiting[critical]) if kinds else 0.0
    waited = max(0.0, gradients - sum(task.seconds for task in sums))
    every = [held] * max(1, len(kinds)) if held else footprints(built, decision, program, optimizer, kinds)
    ranks = rank_plans(built, kinds, nodes, updates, every)
    scarcest = max(range(len(every)), key=lambda i: _pressure(ranks[kinds[i].ranks[0]]) if kinds else 0.0)
    return Candidate(
        built, solution, decision, program, parts, every[scarcest], gradients, waited, ranks, critical, idle
    )


def _pressure(rank: RankPlan) -> float:
    """The share of its memory that a rank holds at its peak."""
    return rank.peak / rank.memory if rank.memory else float(rank.peak)


def call_plans(built: PricedProblem, decision: Decision) -> tuple[NodePlan, ...]:
    """What every call does and takes in a step, in order."""
    resident, kinds = residents(built.graph, built.calls), kinds_of(built, decision)
    return tuple(
        _often(
            _node(built, built.calls[node.name], decision.strategies[node.name], resident[node.name], kinds),
            built.rounds,
        )
        for node in built.graph.nodes
    )


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


def _node(
    built: PricedProblem,
    item: CallStrategies,
    strategy: Strategy,
    resident: frozenset[str],
    kinds: Sequence[RankView],
) -> NodePlan:
    arguments = (item.call, item.rule, item.op, strategy, built.grid, built.machine)
    forward, backward, parts = _seconds(built, item, strategy, kinds)
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
        item.ruled, inner, parts,
    )  # fmt: skip


def _seconds(
    built: PricedProblem, item: CallStrategies, strategy: Strategy, kinds: Sequence[RankView]
) -> tuple[float, float, tuple[float, ...]]:
    """Forward and backward on the rank that takes longest, and the share of it that each rank takes."""
    call = (item.call, item.rule, item.op, strategy)
    if not kinds or item.op.work == "view":
        return *compute.node_seconds(*call, built.grid, built.machine, built.timings), ()
    every = [compute.rank_seconds(*call, kind.grid, built.machine, built.timings) for kind in kinds]
    spent = [(ahead / kind.speed, back / kind.speed) for (ahead, back), kind in zip(every, kinds, strict=True)]
    forward, backward = (max(each) for each in zip(*spent, strict=True))
    return forward, backward, shares(kinds, list(map(sum, spent)))


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


def update_seconds(
    built: PricedProblem,
    decision: Decision,
    parameters: Sequence[Parameter],
    optimizer: str,
    kind: RankView | None = None,
) -> float:
    """Seconds of the optimizer's step for some parameters, on ranks of one kind where these are not alike."""
    values = built.graph.values
    if kind is not None:
        stored = [(values[item.value], decision.storage[item.value], item.kind) for item in parameters]
        each = (
            compute.rank_update(value, layouts, optimizer, kind.grid, built.machine)
            for value, layouts, what in stored
            if what == "parameter"
        )
        return sum(each) / kind.speed
    return sum(
        compute.parameter_seconds(
            values[item.value], item.kind, decision.storage[item.value], optimizer, built.grid, built.machine
        )[1]
        for item in parameters
    )


def tensor_plan(name: str, value: Value, kind: str, layouts: Layouts) -> TensorPlan:
    """The record of an input or parameter."""
    return TensorPlan(name, value.shape, value.dtype, kind, tuple(map(str, layouts)))


def _choice(choice: Choice) -> AxisChoice:
    operands, results = tuple(map(str, choice.operands)), tuple(map(str, choice.results))
    return AxisChoice(choice.mode, choice.letter, choice.blocks, choice.unit, operands, results)
