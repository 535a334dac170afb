"""What `autopar verify` compares beside training: a smaller batch, evaluation, and the outputs beside the loss.

    fewer rows   a training step on a part of the first batch: its loss and every gradient
    17 rows      the same for each number of rows with a program of its own
    by parts     where the model file reads parts of its batches, a step on those of the first one: its loss and every gradient
    evaluation   the loss of the first batch where the program can evaluate, without a gradient
    outputs      in both, whatever the program returns beside the loss, put together

Left out is what cannot be: a program that is for one number of rows, or for training only, says why in
its plan. Rank 0 runs the sequential model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autopar.runtime.functional.model_random import ProgramRandom
from autopar.runtime.grid.counter_rng import drawing
from autopar.runtime.parameters.precision import module_in_precision
from autopar.runtime.program.plan_reader import Description
from autopar.runtime.session import compiled_job, inputs
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.session.outputs import at_path
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.verification.force_float64 import ForceFloat64, as_written

NamedTensors = dict[str, dict[str, Tensor]]  # by what is compared, tensors by name


def of_program(opened: CompiledJob, batch: compiled_job.Inputs, seed: int) -> NamedTensors:
    """What the program computes from its first values, in float64. Collective."""
    parallel = _program(opened, seed)
    tensors = _used(parallel, opened.description, batch, seed)
    parallel.free()
    return tensors


def of_model(
    opened: CompiledJob, batch: compiled_job.Inputs, seed: int, change: Callable[[nn.Module], object] | None = None
) -> NamedTensors:
    """The same of the sequential model; `change` is done to it before."""
    return _used(_model(opened, seed, change), opened.description, batch, seed)


def of_parts(opened: CompiledJob, parts: compiled_job.Inputs, seed: int) -> NamedTensors:
    """What the program computes of a batch of which every rank has read its own parts, in float64. Collective."""
    parallel = _program(opened, seed)
    tensors = _stepped(parallel, opened.description, parts, seed, parallel.forward_parts)
    parallel.free()
    return {"by parts": tensors}


def of_whole(
    opened: CompiledJob, batch: compiled_job.Inputs, seed: int, change: Callable[[nn.Module], object] | None = None
) -> NamedTensors:
    """The same of the sequential model and the whole batch."""
    model = _model(opened, seed, change)
    return {"by parts": _stepped(model, opened.description, batch, seed, model)}


def _program(opened: CompiledJob, seed: int) -> Parallel:
    return compiled_job.parallel(opened, seed, torch.float64, as_written(compiled_job.values(opened, seed)))


def _model(opened: CompiledJob, seed: int, change: Callable[[nn.Module], object] | None) -> nn.Module:
    model = module_in_precision(compiled_job.sequential(opened, seed), torch.float64)
    if change is not None:
        change(model)
    return model


def _rows(description: Description) -> dict[str, int]:
    """How many rows the other batches have: a smaller one, and each with its own program."""
    smaller = [n for n in range(description.rows - 1, 1, -1) if description.accepts(n)]
    own = {f"{rows} rows": rows for rows in description.others}
    return ({"fewer rows": smaller[0]} if smaller else {}) | own


def _used(model: nn.Module, description: Description, batch: compiled_job.Inputs, seed: int) -> NamedTensors:
    tensors: NamedTensors = {}
    for what, rows in _rows(description).items():
        tensors[what] = _stepped(model, description, _with_rows(description, batch, rows), seed, model)
    if not description.evaluation:
        model.eval()
        with torch.no_grad(), _as_program(model, seed):
            loss, outputs = _called(model, description, batch, model)
        tensors["evaluation"] = {"loss": loss} | outputs
    return tensors


def _stepped(
    model: nn.Module, description: Description, batch: compiled_job.Inputs, seed: int, call: Callable[..., Any]
) -> dict[str, Tensor]:
    """Loss, outputs and gradients of a step, in which the model is called so."""
    with _as_program(model, seed):
        loss, outputs = _called(model, description, batch, call)
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
    whole = model.full_gradients() if isinstance(model, Parallel) else _gradients(model)
    return {"loss": loss.detach()} | outputs | whole


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@contextmanager
def _as_program(model: nn.Module, seed: int) -> Iterator[None]:
    """In float64 all the way; the model draws the random numbers that the program draws by itself."""
    with ForceFloat64(written=not isinstance(model, Parallel)):
        if isinstance(model, Parallel):
            yield
        else:
            with drawing(seed, 1, model.training), ProgramRandom():
                yield


def _called(
    model: nn.Module, description: Description, batch: compiled_job.Inputs, call: Callable[..., Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the outputs of the program by their paths."""
    returned = compiled_job.call(call, batch)
    if isinstance(model, Parallel):
        outputs = {item.name: returned[item.name] for item in description.outputs}
    else:
        outputs = {item.name: _tensor(at_path(returned, item.name)).detach() for item in description.outputs}
    return compiled_job.loss_of(returned, description.loss), outputs


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _with_rows(description: Description, batch: compiled_job.Inputs, rows: int) -> compiled_job.Inputs:
    """So many rows of a batch, the first ones again where it has fewer."""
    args, kwargs = ((), batch) if isinstance(batch, Mapping) else (batch, {})
    arguments = inputs.bind(description.inputs, args, kwargs)
    cut = {name: _repeated(value, rows) if name in description.batched else value for name, value in arguments.items()}
    return cut if isinstance(batch, Mapping) else tuple(cut.values())


def _repeated(value: object, rows: int) -> object:
    assert isinstance(value, Tensor)
    return torch.cat([value] * -(-rows // len(value)))[:rows]
