"""What `autopar verify` compares beside training: a smaller batch, evaluation, and the outputs beside the loss.

    fewer rows   a training step on a part of the first batch: its loss and every gradient
    evaluation   the loss of the first batch where the program can evaluate, without a gradient
    outputs      in both, whatever the program returns beside the loss, put together

Left out is what cannot be: a program that is for one number of rows, or for training only, says why in
its plan. Rank 0 runs the sequential model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from autopar.runtime import inputs, job
from autopar.runtime.description import Description
from autopar.runtime.drawn import Drawn
from autopar.runtime.draws import drawing
from autopar.runtime.job import Job
from autopar.runtime.outputs import at_path
from autopar.runtime.precision import module_in_precision
from autopar.runtime.session import Parallel
from autopar.runtime.widen import Widened, as_written

Found = dict[str, dict[str, Tensor]]  # by what is compared, tensors by name


def of_program(opened: Job, batch: job.Inputs, seed: int) -> Found:
    """What the program computes from its first values, in float64. Collective."""
    parallel = job.parallel(opened, seed, torch.float64, as_written(job.values(opened, seed)))
    found = _used(parallel, opened.description, batch, seed)
    parallel.free()
    return found


def of_model(opened: Job, batch: job.Inputs, seed: int, change: Callable[[nn.Module], object] | None = None) -> Found:
    """The same of the sequential model; `change` is done to it before."""
    model = module_in_precision(job.sequential(opened, seed), torch.float64)
    if change is not None:
        change(model)
    return _used(model, opened.description, batch, seed)


def _rows(description: Description) -> int:
    """How many rows the smaller batch has: not a multiple of the ranks; 0 where there is none."""
    return 0 if description.fixed or description.rows < 3 else description.rows - 1


def _used(model: nn.Module, description: Description, batch: job.Inputs, seed: int) -> Found:
    found: Found = {}
    if rows := _rows(description):
        with _as_program(model, seed):
            loss, outputs = _called(model, description, _smaller(description, batch, rows))
            loss.backward()  # type: ignore[no-untyped-call]
        whole = model.full_gradients() if isinstance(model, Parallel) else _gradients(model)
        found["fewer rows"] = {"loss": loss.detach()} | outputs | whole
    if not description.evaluation:
        model.eval()
        with torch.no_grad(), _as_program(model, seed):
            loss, outputs = _called(model, description, batch)
        found["evaluation"] = {"loss": loss} | outputs
    return found


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@contextmanager
def _as_program(model: nn.Module, seed: int) -> Iterator[None]:
    """In float64 all the way; the model draws the random numbers that the program draws by itself."""
    with Widened(written=not isinstance(model, Parallel)):
        if isinstance(model, Parallel):
            yield
        else:
            with drawing(seed, 1, model.training), Drawn():
                yield


def _called(model: nn.Module, description: Description, batch: job.Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the outputs of the program by their paths."""
    returned = job.call(model, batch)
    if isinstance(model, Parallel):
        outputs = {item.name: returned[item.name] for item in description.outputs}
    else:
        outputs = {item.name: _tensor(at_path(returned, item.name)).detach() for item in description.outputs}
    return job.loss_of(returned, description.loss), outputs


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _smaller(description: Description, batch: job.Inputs, rows: int) -> job.Inputs:
    """The first rows of a batch."""
    args, kwargs = ((), batch) if isinstance(batch, Mapping) else (batch, {})
    given = inputs.bind(description.inputs, args, kwargs)
    cut = {name: value[:rows] if name in description.batched else value for name, value in given.items()}  # type: ignore[index]
    return cut if isinstance(batch, Mapping) else tuple(cut.values())
