"""The counts of a whole batch, as steps: a small program of its own beside forward, over inputs that lie as forward wants them.

It is not worth a search. Call by call, the strategy is taken that its operands can be had for cheapest, of equal ones the first
that splits most.
"""

from __future__ import annotations

from autopar.codegen.emit import CountsProgram
from autopar.codegen.lower import lower
from autopar.codegen.symbolic_batch import variant
from autopar.costmodel.redistribution import plan_conversion
from autopar.ir.graph import ITEMSIZE
from autopar.ir.layout import Layouts
from autopar.ops.annotated import AnnotatedGraph
from autopar.partitioner.formulation.priced_problem import Decision, PricedProblem, build
from autopar.partitioner.formulation.strategies import CallStrategies, Strategy, operand_layouts, result_layouts


def counts_of(annotated: AnnotatedGraph, main: PricedProblem, decision: Decision, symbolic: bool) -> CountsProgram:
    """The counts' graph on the grid of the main program, with its inputs and constants stored as there."""
    graph = annotated.graph
    built = build(annotated, main.grid, main.machine, limit=None, optimizer="sgd", gathered=False, untied=True)
    stored = {name: decision.storage[name] for name in graph.external}
    held: dict[str, Layouts] = dict(stored)
    strategies: dict[str, Strategy] = {}
    for node in graph.nodes:
        item = built.calls[node.name]
        strategies[node.name] = chosen = min(item.strategies, key=lambda one: _cost(built, item, one, held))
        held |= {name: result_layouts(chosen, i) for i, name in enumerate(node.outputs) if name}
    own = Decision(strategies, stored, {})
    more = variant(annotated, annotated.larger, stored) if symbolic and annotated.larger is not None else None
    return CountsProgram(graph, own, lower(built, own), more)


def _cost(
    built: PricedProblem, item: CallStrategies, strategy: Strategy, held: dict[str, Layouts]
) -> tuple[float, int]:
    """Seconds of the conversions of a call's operands; less where more axes are split."""
    seconds = 0.0
    for i, name in enumerate(item.node.inputs):
        value = built.graph.values[name]
        steps = plan_conversion(
            value.shape, ITEMSIZE[value.dtype], value.differentiable, held[name], operand_layouts(strategy, i), built.grid,
            built.machine,
        )  # fmt: skip
        seconds += sum(one.seconds_forward for one in steps)
    return seconds, -sum(choice.mode == "split" for choice in strategy)
