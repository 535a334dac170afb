"""nn.Module -> Subject: what is planned for grid after grid, captured and annotated once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autopar.divided_model import DividedModel, divided
from autopar.internal_errors import BrokenCall, as_internal_error
from autopar.ir.plan import ModelSource, Options
from autopar.ops.annotated import AnnotatedGraph, annotate
from autopar.ops.broken_records import whole_from_now
from autopar.planning.microbatch_search import MicrobatchCount
from autopar.progress import Progress, silent, timed

if TYPE_CHECKING:
    from autopar.capture import Captured

LIVE = ModelSource("", "")
"""The source of a model that comes from no file."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is planned for grid after grid: a model as the user gave it, captured and annotated, and the file it is from.

    `divisions` are those that were asked for: another grid asks for the same.
    """

    model: object
    captured: Captured
    annotated: AnnotatedGraph
    source: ModelSource
    divisions: dict[MicrobatchCount, DividedModel] = field(default_factory=dict, compare=False)

    @staticmethod
    def of(model: object, captured: Captured, source: ModelSource = LIVE, tell: Progress = silent) -> Subject:
        """Graph -> AnnotatedGraph; `tell` is told of discovery."""
        with as_internal_error(f"compiling {captured.graph.name}"):
            return Subject(model, captured, annotate(captured.graph, captured.batch.larger, tell), source)

    def divided(self, count: MicrobatchCount, options: Options, tell: Progress = silent) -> DividedModel:
        """The model in so many micro-batches, captured once more where the first capture does not say all.

        Raises ConfigError where the batch is not to be divided so.
        """
        if count in self.divisions:
            return self.divisions[count]
        captured = self.captured

        def recaptured(rows: int) -> Captured:
            examples = captured.batch.given.with_rows(captured.batch.inputs, rows)
            with captured.batch.given.as_then(self.model):
                return captured_of(self.model, examples, captured.graph.name, options)

        with timed(tell, "divided") as said:
            division = divided(captured, count.microbatches, recaptured, tell, count.why)
            said(f"{count.microbatches} micro-batches of up to {division.plan.rows} rows")
        self.divisions[count] = division
        return division

    def without(self, broken: BrokenCall) -> Subject:
        """The same model, in which the operator of that call runs whole on every rank."""
        larger = self.captured.batch.larger
        names = {node.name for node in larger.nodes} if larger is not None else set()
        larger = whole_from_now(larger, broken) if larger is not None and broken.name in names else None
        fixed = self.captured.batch.fixed or ("" if larger is not None else broken.why)
        batch = replace(self.captured.batch, larger=larger, fixed=fixed)
        captured = replace(self.captured, graph=whole_from_now(self.captured.graph, broken), batch=batch)
        return Subject.of(self.model, captured, self.source)


def captured_of(model: Any, example_inputs: Any, name: str, options: Options) -> Captured:  # noqa: ANN401 (as in compile)
    """The graph of a model, up to the loss and with the outputs that the options name. Raises CaptureError."""
    from autopar.capture import capture

    return capture(model, example_inputs, name=name, loss=options.loss, outputs=options.outputs)
