"""The loss on a model file's own ``evaluate()`` batches, in evaluation and without gradients, while a model is trained.

A batch counts by its rows, as the mean over all of them does where the last batch is smaller. Batches are whole, or this
rank's parts of them where the function has a parameter called part.

A model file's ``metrics(outputs, batch)`` may return more, by name: a number, which is a mean over the batch's rows, or a pair of
a sum and a count, as of correct answers. Both are added up over batches and ranks; what a metric comes to is the sum by the count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from autopar.errors import ConfigError, refusal
from autopar.model_file import ModelFile
from autopar.runtime.diagnostics.collective_errors import agree, together
from autopar.runtime.session import compiled_job
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.transport.base import Comm


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The mean loss over so many rows, in so many batches."""

    loss: float
    rows: int
    batches: int
    metrics: Mapping[str, float]

    def line(self, step: int) -> str:
        """It as a line for people."""
        more = "".join(f", {name} {value:.6g}" for name, value in self.metrics.items())
        return f"evaluated  step {step}: loss {self.loss:.6g}{more} of {self.rows} rows in {self.batches} batches"


def evaluated(
    parallel: Parallel,
    file: ModelFile,
    dtype: torch.dtype | None = None,
    asked: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Go through the file's evaluation batches once. Collective; the model is left in the mode in which it was.

    None where it was left unfinished, since any rank was `asked` to stop meanwhile.
    Raises ConfigError where the program cannot evaluate, and where there are no batches or not as many on all ranks.
    """
    assert file.evaluate is not None
    part = file.wants_part(file.evaluate)
    forward = parallel.forward_parts if part else parallel
    training, total, rows, batches = parallel.training, 0.0, 0, 0
    sums: dict[str, tuple[float, float]] = {}
    batched = bool(parallel.description.batched)  # otherwise each batch counts as one row
    yielded = file.evaluate(parallel.input_part()) if part else file.evaluate()
    source = compiled_job.drawn_alike(iter(yielded), seed=0)
    parallel.eval()
    try:
        while (batch := compiled_job.next_alike(parallel.grid.comm, source, file.path.name, "evaluate()")) is not None:
            if _stopping(parallel.grid.comm, asked()):
                return None
            given = compiled_job.cast(batch, dtype)
            with torch.no_grad():
                outputs = compiled_job.call(forward, given)
                loss = compiled_job.loss_of(outputs).item()
            count = parallel.rows_of(*compiled_job.arguments(given), parts=part) if batched else 1
            total, rows, batches = total + loss * count, rows + count, batches + 1
            if file.metrics is not None:
                with together(parallel.grid.comm, "metrics() of the model file"), torch.no_grad():
                    _add(sums, file.metrics(outputs, given), count, file.path.name)
    finally:
        parallel.train(training)
    if not batches:
        raise ConfigError(refusal(file.path.name, "evaluate() yields nothing", "it yields inputs to evaluate on"))
    return Evaluation(total / rows, rows, batches, _over_ranks(parallel.grid.comm, sums, file.path.name))


def _add(sums: dict[str, tuple[float, float]], said: object, rows: int, file: str) -> None:
    """Add what metrics() has returned for a batch. Raises ConfigError for what is no metric."""
    rule = "metrics(outputs, batch) returns a dict of numbers, or of pairs of a sum and a count, by name"
    if not isinstance(said, Mapping):
        raise ConfigError(refusal(file, f"metrics returned {type(said).__name__}", rule))
    for name, value in said.items():
        pair = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
        try:
            number, count = float(pair[0]), rows if pair[1] is None else float(pair[1])
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(refusal(file, f"metrics returned {type(value).__name__} for {name!r}", rule)) from error
        before = sums.get(str(name), (0.0, 0.0))
        sums[str(name)] = (before[0] + (number * rows if pair[1] is None else number), before[1] + count)


def _over_ranks(comm: Comm, sums: Mapping[str, tuple[float, float]], file: str) -> dict[str, float]:
    """The sums of all ranks by their counts, NaN where nothing was counted. Collective. Raises ConfigError, on all ranks."""
    names = list(sums)
    every = comm.gather_objects(names)
    if any(theirs != every[0] for theirs in every):
        lines = [f"rank {rank}: {theirs}" for rank, theirs in enumerate(every)]
        rule = "all ranks return the same metrics, in one order"
        agree(comm, "metrics()", ConfigError(refusal(file, "the ranks have other metrics", rule, lines)))
    totals = torch.tensor([sums[name] for name in names], dtype=torch.float64).reshape(-1)
    comm.all_reduce(totals)
    pairs = zip(names, totals.reshape(-1, 2).tolist(), strict=True)
    return {name: number / count if count else math.nan for name, (number, count) in pairs}


def _stopping(comm: Comm, asked: bool) -> bool:
    flag = torch.tensor([asked], dtype=torch.int64)
    comm.all_reduce(flag)
    return bool(flag)
