"""A session's call in micro-batches: what `autopar.runtime.pipeline` needs to know of it, from what the session knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from autopar.ir.layout import Shard, parse_layout
from autopar.runtime.grid.counter_rng import DrawnTensor, Draws
from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import ShardBounds
from autopar.runtime.parameters.precision import precise
from autopar.runtime.parameters.shards import cuts, part_shape
from autopar.runtime.pipeline.accumulation import MicrobatchedCall
from autopar.runtime.pipeline.microbatch_queue import QueuedStep
from autopar.runtime.pipeline.microbatches import (
    Microbatch,
    joined,
    microbatches_of,
    own_input_parts,
    whole_input_parts,
)
from autopar.runtime.program.namespace import CurrentCall
from autopar.runtime.program.plan_reader import dtype_of
from autopar.runtime.session.batch_programs import BatchProgram, output_shape
from autopar.runtime.session.inputs import BoundBatch
from autopar.runtime.session.outputs import OutputParts, Part


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


@dataclass(frozen=True, slots=True)
class StepCall:
    """A call in micro-batches: this rank's parts of the inputs of each, by name, and the program's tensors, as it calls them.

    `drawing` opens the step's random numbers, for the ``rows`` of a micro-batch. Backward runs if the call `trains`, with `seed` as
    the gradient of the loss. On a grid with a queue the replica computes what it draws of `queued`.
    """

    every: Sequence[Microbatch]
    inputs: Sequence[Mapping[str, Tensor]]
    tensors: Mapping[str, Tensor]
    current: CurrentCall
    drawing: Callable[..., AbstractContextManager[Draws]]
    trains: bool
    seed: float = 1.0
    queued: QueuedStep | None = None


def accumulated(
    chosen: BatchProgram, call: StepCall, dtype: torch.dtype | None
) -> tuple[Tensor, dict[int, Sequence[Tensor]], tuple[DrawnTensor, ...]]:
    """The loss of a program that is not divided, the outputs of the micro-batches computed here, and what the first one drew."""
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
        call.queued,
    ).run(backward=call.trains)


def _rows_dim(layout: str) -> int | None:
    """The dim along which micro-batches lie one after another in an output of the whole batch."""
    lies = parse_layout(layout) if layout != "mean" else None
    return lies.dim if isinstance(lies, Shard) and lies.blocks == 1 else None


@dataclass(frozen=True, slots=True)
class MadeOutputs:
    """The outputs of a step, by micro-batch: this rank's parts of those that were computed here, in the order of the program."""

    chosen: BatchProgram
    every: Sequence[Microbatch]
    made: Mapping[int, Sequence[Tensor]]
    axes: Sequence[Axis]
    dtype: torch.dtype | None
    queued: QueuedStep | None = None

    def named(self) -> dict[str, OutputParts]:
        """They by name, each put together from all micro-batches when it is read."""
        division, names = self.chosen.description.division, list(self.chosen.outputs)
        if division is None:
            return {
                name: OutputParts(partial(self._parts, i, name, self._bounds(name))) for i, name in enumerate(names)
            }
        return {
            name: OutputParts(
                partial(self._parts, i, name, self._bounds(name)),
                partial(joined, every=self.every, layout=layout),
                _rows_dim(layout),
            )
            for i, (name, layout) in enumerate(zip(names, division.outputs, strict=True))
        }

    def _bounds(self, name: str) -> list[Sequence[tuple[Axis, ShardBounds]]]:
        """How an output of every micro-batch is cut by the step: when it is read, boundaries may have moved."""
        layouts = self.chosen.outputs[name]
        return [cuts(output_shape(self.chosen, name, one.size), layouts, self.axes) for one in self.every]

    def _parts(self, i: int, name: str, bounds: Sequence[Sequence[tuple[Axis, ShardBounds]]]) -> list[Part]:
        """This rank's part of an output of every micro-batch, and how the whole is cut."""
        parts: list[Part] = []
        for number, where in enumerate(bounds):
            part = self.made[number][i] if self.queued is None else self._fetched(self.queued, i, number, name, where)
            parts.append((part.detach(), where))
        return parts

    def _fetched(
        self, queued: QueuedStep, i: int, number: int, name: str, where: Sequence[tuple[Axis, ShardBounds]]
    ) -> Tensor:
        """What one replica has computed of a micro-batch, whose whole is cut so, on all of them."""
        item = next(item for item in self.chosen.description.outputs if item.name == name)
        dtype = precise(item.dtype, self.dtype)
        if number in self.made:
            part = self.made[number][i].to(dtype).contiguous()
        else:
            shape = part_shape(output_shape(self.chosen, name, self.every[number].size), where)
            part = torch.empty(shape, dtype=dtype, device=queued.device)
        queued.axis.comm.broadcast(part, queued.owners[number])
        return part
