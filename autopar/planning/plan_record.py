"""Candidate and program -> Plan: all that is said about what was decided, made once, when the program's text is there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from autopar.codegen.emit import Emitted
from autopar.codegen.steps import LoweredProgram
from autopar.codegen.symbolic_batch import Variant, run_for
from autopar.costmodel import compute
from autopar.ir.graph import Graph
from autopar.ir.layout import Replicate
from autopar.ir.plan import (
    VERSION,
    BatchPlan,
    ModelSource,
    NodePlan,
    Options,
    OutputPlan,
    Plan,
    Predicted,
    SolverReport,
    TensorPlan,
)
from autopar.partitioner.formulation.priced_problem import Decision, PricedProblem
from autopar.partitioner.formulation.recomputation import key_of
from autopar.partitioner.formulation.strategies import filled_factors, whole_strategy
from autopar.planning.candidate import Candidate, tensor_plan
from autopar.planning.place_axis.placement_record import grown_dims, placement_plan, predicted
from autopar.planning.placing import Placed
from autopar.planning.unequal.step_work import step_work
from autopar.version import __version__

if TYPE_CHECKING:
    from autopar.capture import Captured


def plan(
    candidate: Candidate,
    options: Options,
    source: ModelSource,
    captured: Captured,
    program: Emitted,
    batch: BatchPlan,
    placed: Placed | None = None,
    training: str = "",
) -> Plan:
    """The record of a candidate and of the program that carries it out; inputs and outputs are those of the whole batch.

    `training` says why the program cannot be put into training.
    """
    graph, built, parts = captured.graph, candidate.built, candidate.parts
    larger = captured.batch.larger if not batch.fixed or batch.division else None
    return Plan(
        version=VERSION,
        autopar=__version__,
        name=graph.name,
        grid=str(placed.grid if placed else built.grid),
        machine=placed.machine if placed else built.machine,
        model=source,
        options=options,
        graph_sha256=_hash(graph),
        program_sha256=hashlib.sha256(program.text.encode()).hexdigest(),
        inputs=tuple(_inputs(graph, candidate.decision)),
        parameters=_with_segments(parts.parameters, placed) if placed else parts.parameters,
        nodes=parts.nodes,
        conversions=parts.conversions,
        repeats=parts.repeats,
        recomputed=tuple(key_of(repeat) in built.recomputation.repeats for repeat in built.repeats),
        predicted=predicted(candidate, placed, options.optimizer) if placed else _predicted(candidate),
        single=_single(built, options.optimizer),
        solver=_report(candidate),
        filled=_filled(built, candidate.decision),
        batch=batch,
        evaluation=captured.evaluation,
        training=training,
        evaluates=captured.evaluates,
        loss=graph.loss_path,
        outputs=_outputs(graph, larger, candidate.program),
        places=program.places,
        work=step_work(candidate, placed.segments if placed else {}, options.optimizer),
        placement=placement_plan(candidate, placed, program.segments) if placed else None,
        cuts=tuple(built.grid.named_cuts.items()),
        ranks=candidate.ranks,
    )


def _inputs(graph: Graph, decision: Decision) -> Iterator[TensorPlan]:
    for item in graph.inputs:
        yield tensor_plan(item.name, graph.values[item.value], "input", decision.storage[item.value])


def _report(candidate: Candidate) -> SolverReport:
    built, solution = candidate.built, candidate.solution
    return SolverReport(
        solution.method,
        solution.cost,
        max(0.0, min(solution.bound, solution.cost)),
        len(built.keys),
        sum(len(options) for options in built.options.values()),
        built.tied_loss,
        built.unhidden,
    )


def _with_segments(parameters: Sequence[TensorPlan], placed: Placed) -> tuple[TensorPlan, ...]:
    segments = placed.segments
    return tuple(
        replace(item, segments=tuple(sorted({segments[reader] for reader in item.readers}))) for item in parameters
    )


def _outputs(graph: Graph, larger: Graph | None, program: LoweredProgram) -> tuple[OutputPlan, ...]:
    """What the program returns beside the loss; `larger` is the graph with more rows."""
    outputs = []
    for (path, name), held in zip(graph.outputs, program.outputs, strict=True):
        value = graph.values[name]
        layouts = tuple(map(str, held.layouts))
        grown, needs = grown_dims(value, larger), graph.inputs_of(name)
        outputs.append(OutputPlan(path, value.shape, value.dtype, layouts, grown, needs))
    return tuple(outputs)


def _filled(built: PricedProblem, decision: Decision) -> tuple[tuple[tuple[str, ...], int], ...]:
    """The factors of which every rank needs a row, by the names of the axes of more than one rank that cut them."""
    grid = built.grid
    filled = {
        (tuple(grid.names[axis] for axis in axes), extent)
        for name, strategy in decision.strategies.items()
        for axes, extent in filled_factors(built.calls[name].rule, strategy)
    }
    return tuple(sorted(filled))


def filled_by_rows(
    built: PricedProblem, decision: Decision, variant: Variant
) -> tuple[tuple[tuple[str, ...], int], ...]:
    """Those of the filled factors that grow with the batch."""
    filled = set()
    for name, strategy in decision.strategies.items():
        item = built.calls[name]
        grown, other = run_for(variant, item, strategy)
        pairs = zip(filled_factors(item.rule, strategy), filled_factors(grown.rule, other), strict=True)
        filled |= {(axes, extent) for (axes, extent), (_, more) in pairs if extent != more}
    return tuple(sorted((tuple(built.grid.names[axis] for axis in axes), extent) for axes, extent in filled))


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


def exchanged(node: NodePlan) -> tuple[float, float, float]:
    """Bytes forward, bytes back and seconds that a call exchanges inside."""
    return (
        sum(inner.bytes_forward for inner in node.inner),
        sum(inner.bytes_adjoint for inner in node.inner),
        sum(inner.seconds for inner in node.inner),
    )


def _predicted(candidate: Candidate) -> Predicted:
    held = candidate.held
    return Predicted(
        compute=candidate.compute,
        communication=candidate.communication,
        gradients=candidate.gradients,
        update=candidate.update,
        peak_during=held.where(held.at),
        idle=candidate.idle,
        **{f"{kind}_bytes": size for kind, size in held.parts(held.at).items()},
    )


def _single(built: PricedProblem, optimizer: str) -> float:
    """Seconds of a step on one rank that holds everything, of speed 1."""
    total, machine = 0.0, replace(built.machine, ranks=())
    grid = built.grid.balanced
    for item in built.calls.values():
        whole = whole_strategy(item.call, grid)
        arguments = (item.call, item.rule, item.op, whole, grid, machine)
        total += sum(compute.node_seconds(*arguments, built.timings)) * built.microbatches
    stored = tuple(Replicate() for _ in built.grid.sizes)
    for parameter in built.graph.parameters:
        value = built.graph.values[parameter.value]
        total += compute.parameter_seconds(value, parameter.kind, stored, optimizer, grid, machine)[1]
    return total
