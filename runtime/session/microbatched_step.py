"""A session's call in micro-batches: what `autopar.runtime.pipeline` needs to know of it, from what the session knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from autopar.runtime.grid.counter_rng import DrawnTensor, Draws
from autopar.runtime.grid.grid import Axis
from autopar.runtime.parameters.precision import precise
from autopar.runtime.pipeline.accumulation import MicrobatchedCall
from autopar.runtime.pipeline.microbatches import (
    Microbatch,
    joined,
    microbatches_of,
    own_input_parts,
    own_input_shape,
    whole_input_parts,
)
from autopar.runtime.program.namespace import CurrentCall
from autopar.runtime.program.plan_reader import dtype_of
from autopar.runtime.session.batch_programs import BatchProgram, output_parts
from autopar.runtime.session.inputs import BoundBatch
from autopar.runtime.session.outputs import OutputParts


def microbatches(chosen: BatchProgram, rows: int) -> tuple[Microbatch, ...]:
    """The micro-batches of a batch of so many rows."""
    return microbatches_of(chosen.description.microbatches(rows))


def whole(chosen: BatchProgram, batch: BoundBatch, axes: Sequence[Axis]) -> list[dict[str, Tensor]]:
    """This rank's parts of the inputs of every micro-batch of a batch that is given whole."""
    return [
        whole_input_parts(batch.tensors, chosen.description.batched, one, chosen.inputs, axes)
        for one in microbatches(chosen, batch.rows)
    ]


def own(chosen: BatchProgram, rows: int, parts: Mapping[str, Tensor], axes: Sequence[Axis]) -> list[dict[str, Tensor]]:
    """The same of a batch of which this rank is given its own rows."""
    shapes = {item.name: item.shape for item in chosen.description.inputs}
    return own_input_parts(parts, shapes, chosen.description.batched, microbatches(chosen, rows), chosen.inputs, axes)


def own_shape(chosen: BatchProgram, name: str, shape: tuple[int, ...], axes: Sequence[Axis]) -> tuple[int, ...]:
    """The shape of this rank's part of an input of this whole shape."""
    return own_input_shape(shape, chosen.description.microbatches(shape[0]), chosen.inputs[name], axes)


@dataclass(frozen=True, slots=True)
class StepCall:
    """A call in micro-batches: this rank's parts of the inputs of each, by name, and the program's tensors, as it calls them.

    `drawing` opens the step's random numbers, for the ``rows`` of a micro-batch. Backward runs if the call `trains`, with `seed` as
    the gradient of the loss.
    """

    every: Sequence[Microbatch]
    inputs: Sequence[Mapping[str, Tensor]]
    tensors: Mapping[str, Tensor]
    current: CurrentCall
    drawing: Callable[..., AbstractContextManager[Draws]]
    trains: bool
    seed: float = 1.0


def accumulated(
    chosen: BatchProgram, call: StepCall, dtype: torch.dtype | None
) -> tuple[Tensor, list[Sequence[Tensor]], tuple[DrawnTensor, ...]]:
    """The loss of a program that is not divided, the outputs of every micro-batch, and what the first one drew."""
    program, division = chosen.program, chosen.description.division
    assert division is not None
    dtypes = [precise(dtype_of(name), dtype) for name in division.counts]
    given = [[parts[name] for name in program.inputs] for parts in call.inputs]
    return MicrobatchedCall(
        program,
        call.tensors,
        call.every,
        given,
        dtypes,
        call.current,
        lambda one: call.drawing(rows=one.place),
        call.seed,
    ).run(backward=call.trains)


def outputs(
    chosen: BatchProgram, rows: int, made: Sequence[Sequence[Tensor]], axes: Sequence[Axis]
) -> dict[str, OutputParts]:
    """The outputs of a call, by name, from those of every micro-batch."""
    division, every = chosen.description.division, microbatches(chosen, rows)
    parts = [output_parts(chosen, each, one.size, axes) for one, each in zip(every, made, strict=True)]
    if division is None:
        return {name: OutputParts([part]) for name, part in parts[0].items()}
    names = zip(parts[0], division.outputs, strict=True)
    return {
        name: OutputParts([each[name] for each in parts], partial(joined, every=every, layout=layout))
        for name, layout in names
    }
