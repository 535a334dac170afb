"""From a graph to the abstract problem, and from its solution back to decisions.

Variables: one per call (its strategy), one per parameter and input (its storage layout), and one *fan-out* per tensor that several
calls read: the layouts it is converted to once for all of them. Costs: a call's compute and inner communication, a
parameter's gradient sum and update, and on every edge the conversion from what the producer yields to what the reader needs. Calls
of repeated blocks share a variable, whose cost is the sum over the blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from autopar.costmodel import memory
from autopar.costmodel.local_shapes import local_bytes
from autopar.costmodel.op_timings import UNMEASURED, Timings
from autopar.costmodel.rank_views import rounds, views
from autopar.ir.graph import ITEMSIZE, Graph, Ref
from autopar.ir.grid import GridShape
from autopar.ir.layout import Layouts
from autopar.ir.machine import Machine
from autopar.ops.annotated import AnnotatedGraph
from autopar.partitioner.formulation import repeated_blocks
from autopar.partitioner.formulation.constraints import NONE, Constraints, constrained, same_storage_layouts
from autopar.partitioner.formulation.conversion_costs import Conversions
from autopar.partitioner.formulation.problem_builder import ProblemBuilder
from autopar.partitioner.formulation.recomputation import NO_RECOMPUTATION, Recomputation, recomputation_of
from autopar.partitioner.formulation.shared_variables import external_values, same_options, tied_keys
from autopar.partitioner.formulation.strategies import CallStrategies, Strategy
from autopar.partitioner.problem import Choices, Edge, Problem


@dataclass(frozen=True, slots=True)
class PricedProblem:
    """The problem of one graph on one grid, with what its variables mean.

    keys           per variable ``"node:NAME"``, ``"storage:VALUE"`` (where a value is stored) or ``"fan_out:VALUE"`` (its fan-out)
    options        per variable its strategies (of a call) or layouts (of a tensor)
    tied           key of a later block's variable -> key of the first block's, which stands for it
    recomputation  the repeated blocks whose forward is computed again in backward
    tied_loss      by which share of its cost the best plan would be cheaper at most if blocks shared no choice; None: not known
    unhidden       the share of what the machine hides of gradient sums that is priced as waited for
    microbatches   how often the graph, which is that of a micro-batch, is computed in a step
    memories       bytes that each rank may hold where ranks are not alike; bytes of a rank with less than the others count for
                   as many times more
    parts          whether every rank is given its part of every input, and not the whole
    """

    graph: Graph
    grid: GridShape
    machine: Machine
    calls: Mapping[str, CallStrategies]
    repeats: tuple[repeated_blocks.Repeat, ...]
    keys: tuple[str, ...]
    options: Mapping[str, Sequence[Strategy] | Sequence[Layouts]]
    tied: Mapping[str, str]
    problem: Problem
    timings: Timings = UNMEASURED
    recomputation: Recomputation = NO_RECOMPUTATION
    tied_loss: float | None = None
    unhidden: float = 0.0
    microbatches: int = 1
    memories: tuple[float, ...] = ()
    parts: bool = False

    @property
    def rounds(self) -> int:
        """How often a rank computes the graph in a step; of a queue, see `autopar.costmodel.rank_views.rounds`."""
        return rounds(self.machine, self.grid, self.microbatches)


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided: a strategy per call, storage layouts per parameter and input, and for a tensor that several calls read the
    layouts to which it is converted once for all of them."""

    strategies: Mapping[str, Strategy]
    storage: Mapping[str, Layouts]
    fan_outs: Mapping[str, Layouts]
    recomputation: Recomputation = NO_RECOMPUTATION


def build(
    annotated: AnnotatedGraph,
    grid: GridShape,
    machine: Machine,
    constraints: Constraints = NONE,
    *,
    limit: float | None,
    optimizer: str,
    gathered: bool,
    timings: Timings = UNMEASURED,
    recomputed: Collection[str] = (),
    untied: bool = False,
    calls: Mapping[str, CallStrategies] | None = None,
    memories: tuple[float, ...] = (),
) -> PricedProblem:
    """Price everything. `limit` is bytes per rank or None; `optimizer` one of ``sgd``, ``momentum``, ``adamw``.

    `gathered` allows parameters to be stored in parts and gathered for use; `timings` are taken in place of predicted seconds.
    `recomputed` names repeated blocks (`key_of`) of which forward is computed again in backward; `untied` lets every block
    choose for itself. `calls`: what calls may do, if known already; `memories`: of every rank, where ranks are not alike.
    """
    graph = annotated.graph
    calls = calls or constrained(annotated, grid, constraints)
    repeats = () if untied else repeated_blocks.find(graph)
    repeats = tuple(
        repeat for repeat in repeats if same_options(repeat, calls) and same_storage_layouts(repeat, constraints)
    )
    twice = recomputation_of(repeats, recomputed)
    stored = frozenset(item.value for item in graph.parameters if gathered or constraints.gathers(item.value))
    builder = ProblemBuilder(
        graph, grid, machine, calls, optimizer, constraints, stored,
        frozenset(item.value for item in graph.parameters), tied_keys(graph, repeats),
        repeats, graph.producers(), graph.consumers(), residents(graph, calls), running_statistics(graph), timings,
        Conversions(grid, machine), twice, _scarcity(machine, grid, memories),
    )  # fmt: skip
    builder.add_storage()
    builder.add_calls()
    builder.add_edges()
    position = {key: i for i, key in enumerate(builder.options)}
    nodes = tuple(Choices(key, builder.costs[key], builder.bytes[key], *builder.spans[key]) for key in position)
    edges = tuple(Edge(position[a], position[b], costs) for (a, b), costs in builder.edges.items())
    return PricedProblem(
        graph, grid, machine, calls, repeats, tuple(position), builder.options, builder.tied, Problem(nodes, edges, limit),
        timings, twice, memories=memories,
    )  # fmt: skip


def inputs_bytes(built: PricedProblem, decision: Decision) -> dict[str, int]:
    """Bytes of every input of a step that a rank is given, by its name."""
    sizes = {}
    for item in built.graph.given:
        value = built.graph.values[item.value]
        stored = decision.storage[item.value]
        one = local_bytes(value.shape, ITEMSIZE[value.dtype], stored, built.grid) if built.parts else value.nbytes
        sizes[item.name] = one * built.microbatches
    return sizes


def _scarcity(machine: Machine, grid: GridShape, memories: Sequence[float]) -> tuple[tuple[GridShape, float], ...]:
    """What the kinds of ranks see of the grid, and how many times less than the most they may hold."""
    return tuple((kind.grid, max(memories) / memories[kind.ranks[0]]) for kind in views(machine, grid) if memories)


def repeated(built: PricedProblem, microbatches: int) -> PricedProblem:
    """The problem of a step of so many micro-batches, per time that a rank computes the graph: what a parameter costs in a step is
    divided."""
    problem = replace(built, microbatches=microbatches)
    keys = {built.tied.get(key, key) for item in built.graph.parameters if (key := "storage:" + item.value)}
    nodes = tuple(
        replace(node, costs=node.costs / problem.rounds) if key in keys else node
        for key, node in zip(built.keys, built.problem.nodes, strict=True)
    )
    return replace(problem, problem=replace(built.problem, nodes=nodes))


def residents(graph: Graph, calls: Mapping[str, CallStrategies]) -> dict[str, frozenset[str]]:
    """Per call, the values that are held anyway when it runs: parameters, inputs, and what an earlier call keeps for backward."""
    held = set(external_values(graph))
    resident = {}
    for node in graph.nodes:
        resident[node.name] = frozenset(held & {*node.inputs, *node.outputs})
        item = calls[node.name]
        held |= memory.kept_names(item.call, item.rule, item.op)
    return resident


def running_statistics(graph: Graph) -> frozenset[str]:
    """The values that batch norms change in place, before and after: they are read where they are stored, and never converted."""
    statistics: set[str] = set()
    for node in graph.nodes:
        if node.target == "autopar.batch_norm":
            statistics |= {arg.name for arg in node.args[3:5] if isinstance(arg, Ref)}
            statistics |= set(filter(None, node.outputs[1:]))
    return frozenset(statistics)


def decide(built: PricedProblem, choice: Sequence[int]) -> Decision:
    """What a solution of the problem says about the graph."""
    chosen = {key: built.options[key][index] for key, index in zip(built.keys, choice, strict=True)}

    def of(key: str) -> object:
        return chosen[built.tied.get(key, key)]

    strategies = {node.name: of("node:" + node.name) for node in built.graph.nodes}
    outside = external_values(built.graph)
    fanned = [name for name in built.graph.values if built.tied.get("fan_out:" + name, "fan_out:" + name) in chosen]
    return Decision(
        strategies,  # type: ignore[arg-type]
        {name: of("storage:" + name) for name in outside},  # type: ignore[misc]
        {name: of("fan_out:" + name) for name in fanned},  # type: ignore[misc]
        built.recomputation,
    )
