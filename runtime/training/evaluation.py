"""The loss on a model file's own ``evaluate()`` batches, in evaluation and without gradients, while a model is trained.

A batch counts by its rows, as the mean over all of them does where the last batch is smaller. Batches are whole, or this
rank's parts of them where the function has a parameter called part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from autopar.errors import ConfigError, refusal
from autopar.model_file import ModelFile
from autopar.runtime.diagnostics.collective_errors import agree, together
from autopar.runtime.session import compiled_job
from autopar.runtime.session.inputs import InputBinding
from autopar.runtime.session.parallel_module import Parallel


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The mean loss over so many rows, in so many batches."""

    loss: float
    rows: int
    batches: int

    def line(self, step: int) -> str:
        """It as a line for people."""
        return f"evaluated  step {step}: loss {self.loss:.6g} of {self.rows} rows in {self.batches} batches"


def evaluated(parallel: Parallel, file: ModelFile, dtype: torch.dtype | None = None) -> Evaluation:
    """Go through the file's evaluation batches once. Collective; the model is left in the mode in which it was.

    Raises ConfigError where the program cannot evaluate, and where there are no batches or not as many on all ranks.
    """
    assert file.evaluate is not None
    part = file.wants_part(file.evaluate)
    forward, binding = parallel.forward_parts if part else parallel, _binding(parallel)
    training, total, rows, batches = parallel.training, 0.0, 0, 0
    yielded = file.evaluate(parallel.input_part()) if part else file.evaluate()
    source = compiled_job.drawn_alike(iter(yielded), seed=0)
    parallel.eval()
    try:
        while (batch := _next(parallel, source, file.path.name)) is not None:
            given = compiled_job.cast(batch, dtype)
            with torch.no_grad():
                loss = compiled_job.loss_of(compiled_job.call(forward, given)).item()
            count = _rows(binding, parallel, given, part)
            total, rows, batches = total + loss * count, rows + count, batches + 1
    finally:
        parallel.train(training)
    if not batches:
        raise ConfigError(refusal(file.path.name, "evaluate() yields nothing", "it yields inputs to evaluate on"))
    return Evaluation(total / rows, rows, batches)


def _binding(parallel: Parallel) -> InputBinding:
    return InputBinding(parallel.grid, parallel.description, parallel.input_layouts, rarely=False)


def _rows(binding: InputBinding, parallel: Parallel, batch: compiled_job.Inputs, part: bool) -> int:
    """The rows of the whole batch; 1 where its inputs have no rows. Collective for parts."""
    described = parallel.description
    args, kwargs = ((), batch) if isinstance(batch, dict) else (batch, {})
    if part:
        return binding.own(args, kwargs)[0] or 1
    arguments = kwargs or dict(zip([item.name for item in described.inputs], args, strict=False))
    return arguments[described.batched[0]].shape[0] if described.batched else 1


def _next(parallel: Parallel, source: Iterator[compiled_job.Inputs], name: str) -> compiled_job.Inputs | None:
    """The next batch, or None behind the last. Raises ConfigError, on all ranks, where only some have another. Collective."""
    comm = parallel.grid.comm
    with together(comm, "reading the next batch of evaluate()"):
        batch = next(source, None)
    ended = torch.tensor([batch is None], dtype=torch.int64)
    comm.all_reduce(ended)
    if 0 < int(ended) < comm.size:
        rule = "all ranks evaluate the same batches"
        agree(comm, "evaluate()", ConfigError(refusal(name, f"evaluate() has ended on {int(ended)} ranks only", rule)))
    return batch
