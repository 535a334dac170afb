"""The loss on a model file's own ``evaluate()`` batches, in evaluation and without gradients, while a model is trained.

A batch counts by its rows, as the mean over all of them does where the last batch is smaller. Batches are whole, or this
rank's parts of them where the function has a parameter called part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from autopar.errors import ConfigError, refusal
from autopar.model_file import ModelFile
from autopar.runtime.session import compiled_job
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.transport.base import Comm


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The mean loss over so many rows, in so many batches."""

    loss: float
    rows: int
    batches: int

    def line(self, step: int) -> str:
        """It as a line for people."""
        return f"evaluated  step {step}: loss {self.loss:.6g} of {self.rows} rows in {self.batches} batches"


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
                loss = compiled_job.loss_of(compiled_job.call(forward, given)).item()
            count = parallel.rows_of(*compiled_job.arguments(given), parts=part) if batched else 1
            total, rows, batches = total + loss * count, rows + count, batches + 1
    finally:
        parallel.train(training)
    if not batches:
        raise ConfigError(refusal(file.path.name, "evaluate() yields nothing", "it yields inputs to evaluate on"))
    return Evaluation(total / rows, rows, batches)


def _stopping(comm: Comm, asked: bool) -> bool:
    flag = torch.tensor([asked], dtype=torch.int64)
    comm.all_reduce(flag)
    return bool(flag)
