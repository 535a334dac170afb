"""A captured model divided into micro-batches: the graph of one of them, with as many rows as the largest has.

Where the capture has shown that the model computes any number of rows alike, the graph with so many rows follows from the two that
were captured. Otherwise the model is captured once more, with as many rows as a micro-batch has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopar.errors import ConfigError, refusal
from autopar.ir.batch_sizes import ANY, MicrobatchPlan, Sizes, divided_rows
from autopar.ir.graph import Graph
from autopar.ops.annotated import AnnotatedGraph, annotate
from autopar.partitioner.microbatches import divide as dividing
from autopar.partitioner.microbatches.frozen_statistics import NOT_TRAINED, keeps_statistics, with_frozen_statistics
from autopar.partitioner.microbatches.other_rows import NotProportional, with_rows
from autopar.progress import Progress

if TYPE_CHECKING:
    from autopar.capture import Captured


@dataclass(frozen=True, slots=True)
class DividedModel:
    """What is planned: the graph of the largest micro-batch and that of the counts; the capture whose constants they read.

    plan      how the batch is divided
    inputs    those that have rows
    fixed     why a micro-batch has that many rows and no others; empty where it may have any of `sizes`
    training  why the program cannot be put into training
    """

    annotated: AnnotatedGraph
    counts: AnnotatedGraph | None
    captured: Captured
    plan: MicrobatchPlan
    inputs: tuple[str, ...]
    fixed: str
    sizes: Sizes
    training: str

    def checked(self, rows: int, fixed: str = "") -> str:
        """Why micro-batches have a fixed number of rows. Raises ConfigError where the batch of so many rows has no such."""
        fixed = fixed or self.fixed
        if not divided_rows(rows, rows, self.plan, fixed, self.sizes):
            count = self.plan.microbatches
            given = f"{rows} rows cannot be cut into {count} micro-batches of {self.plan.rows} rows"
            rule = f"the program of a micro-batch holds for that number of rows alone: {fixed}"
            raise ConfigError(refusal("micro-batches", given, rule, fix=f"take a number that divides {rows}"))
        return fixed


def divided(
    captured: Captured, microbatches: int, recaptured: Callable[[int], Captured], tell: Progress, why: str = ""
) -> DividedModel:
    """The model in so many micro-batches. `recaptured` captures it with another number of rows.

    Raises ConfigError where the batch has fewer rows, or where micro-batches would not add up; CaptureError from `recaptured`.
    """
    batch = captured.batch
    if microbatches > batch.rows:
        given = f"{microbatches} micro-batches of a batch of {batch.rows} row{'s' * (batch.rows != 1)}"
        raise ConfigError(
            refusal("micro-batches", given, "every micro-batch has a row at least", fix="take fewer of them")
        )
    rows = _largest(captured, microbatches)
    found = _by_proportion(captured, microbatches, rows, tell, why) if rows else None
    return found or _by_capture(captured, microbatches, recaptured, tell, why)


def _largest(captured: Captured, microbatches: int) -> int:
    """The rows of the largest micro-batch that the captured program takes; 0 where it takes none that fit."""
    batch = captured.batch
    if batch.larger is None or batch.fixed:
        return 0
    step = batch.sizes.multiple if not batch.sizes.remainder else 1
    rows = -(-(batch.rows // step) // microbatches) * step
    bounds = divided_rows(batch.rows, batch.rows, MicrobatchPlan(microbatches, rows), "", batch.sizes)
    return rows if len(bounds) == microbatches + 1 and batch.sizes.accepts(rows) else 0


def _by_proportion(captured: Captured, microbatches: int, rows: int, tell: Progress, why: str) -> DividedModel | None:
    """From the two graphs that were captured; None where a number follows the rows in a way of its own."""
    batch, frozen = captured.batch, _freezes(captured)
    assert batch.larger is not None
    one, two = _in_mode(captured.graph, frozen), _in_mode(batch.larger, frozen)
    here = annotate(one, two, tell)
    there = here.larger
    assert there is not None
    other = next(two.values[item.value].shape[0] for item in two.inputs if item.name in batch.inputs)
    first = dividing.divide(dividing.DivisionSubject(here, there, batch.rows, other, batch.inputs))
    second = dividing.divide(dividing.DivisionSubject(there, here, other, batch.rows, batch.inputs))
    try:
        graph = with_rows(first.graph, second.graph, batch.rows, other, rows)
        counts = None
        if first.counts is not None and second.counts is not None:
            counts = annotate(with_rows(first.counts, second.counts, batch.rows, other, rows), second.counts, tell)
    except NotProportional:
        return None
    plan = MicrobatchPlan(microbatches, rows, why, _dtypes(graph), _outputs(graph))
    training = NOT_TRAINED if frozen else captured.training
    return DividedModel(
        annotate(graph, second.graph, tell), counts, captured, plan, batch.inputs, "", batch.sizes, training
    )


def _by_capture(
    captured: Captured, microbatches: int, recaptured: Callable[[int], Captured], tell: Progress, why: str
) -> DividedModel:
    """From another capture, with the rows of a micro-batch."""
    batch, frozen = captured.batch, _freezes(captured)
    rows = -(-batch.rows // microbatches)
    if rows < 2 or rows == batch.rows:
        given = f"micro-batches of {rows} row{'s' * (rows != 1)}"
        limits = batch.fixed or "; ".join(batch.sizes.why)
        rule = f"it is captured for each number of rows ({limits}), and rows are told from two on"
        raise ConfigError(
            refusal("micro-batches", given, rule, fix="take fewer micro-batches, or compile without them")
        )
    again = recaptured(rows)
    one, two = _in_mode(again.graph, frozen), _in_mode(captured.graph, frozen)
    here = annotate(one, two, tell)
    assert here.larger is not None
    found = dividing.divide(dividing.DivisionSubject(here, here.larger, rows, batch.rows, batch.inputs))
    dividing.divide(
        dividing.DivisionSubject(here.larger, here, batch.rows, rows, batch.inputs)
    )  # the whole batch is, in the same way
    fixed = batch.fixed or f"with {rows} rows, forward is captured anew"
    counts = None if found.counts is None else annotate(found.counts, None, tell)
    plan = MicrobatchPlan(microbatches, rows, why, _dtypes(found.graph), _outputs(found.graph))
    training = NOT_TRAINED if frozen else captured.training
    division = DividedModel(annotate(found.graph, None, tell), counts, again, plan, batch.inputs, fixed, ANY, training)
    division.checked(batch.rows)
    return division


def _freezes(captured: Captured) -> bool:
    return captured.evaluates and keeps_statistics(captured.graph)


def _in_mode(graph: Graph, frozen: bool) -> Graph:
    return with_frozen_statistics(graph) if frozen else graph


def _dtypes(graph: Graph) -> tuple[str, ...]:
    """Of the counts, in their order."""
    counts = graph.division.counts if graph.division is not None else ()
    return tuple(graph.values[item.value].dtype for item in graph.inputs if item.name in counts)


def _outputs(graph: Graph) -> tuple[str, ...]:
    return graph.division.outputs if graph.division is not None else ()
