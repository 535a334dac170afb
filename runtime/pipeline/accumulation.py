"""A training step in micro-batches on a grid without an axis of place: F0 B0 F1 B1 ..., with the gradients put aside.

On a grid with a queue a replica computes those that it draws (`microbatch_queue`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from autopar.runtime.grid.counter_rng import DrawnTensor, Draws
from autopar.runtime.pipeline.microbatch_queue import QueuedStep
from autopar.runtime.pipeline.microbatches import Microbatch, apart, counted, handed
from autopar.runtime.program.namespace import CurrentCall, Namespace
from autopar.runtime.program.pipeline import Pipeline
from autopar.runtime.program.program import Program


@dataclass(frozen=True, slots=True)
class MicrobatchedCall:
    """A call of a program with several micro-batches: their rows, and the inputs of each in the order of forward's arguments.

    `tensors` are the program's, by its names, `dtypes` those of its counts; `drawing` opens the random numbers of a micro-batch.
    """

    program: Program
    tensors: Mapping[str, Tensor]
    every: Sequence[Microbatch]
    inputs: Sequence[Sequence[Tensor]]
    dtypes: Sequence[torch.dtype]
    call: CurrentCall
    drawing: Callable[[Microbatch], AbstractContextManager[Draws]]
    seed: float = 1.0  # the gradient of the loss
    queued: QueuedStep | None = None  # where micro-batches are drawn from a queue

    def run(self, *, backward: bool) -> tuple[Tensor, dict[int, Sequence[Tensor]], tuple[DrawnTensor, ...]]:
        """The loss, the outputs of every micro-batch that was computed here, by its number, and what the first one drew.

        With `backward` the gradients are computed, too; the loss has them. Without, nothing keeps what backward would need.
        """
        leaves = apart(self.tensors) if backward else self.tensors
        namespace, training = Namespace(leaves, self.call), self.call.training
        forward = self.program.forward
        assert not isinstance(forward, Pipeline)
        totals: list[Tensor] = []
        if self.program.counts is not None:
            totals = counted(self.program.counts, namespace, self.call, self.every, self.inputs, self.dtypes)
        losses: dict[int, Tensor] = {}
        outputs: dict[int, Sequence[Tensor]] = {}
        drawn: tuple[DrawnTensor, ...] = ()
        for number in range(len(self.every)) if self.queued is None else self.queued.draws(forward):
            one, given = self.every[number], self.inputs[number]
            one.enter(self.call, training=training)
            with nullcontext() if backward else torch.no_grad(), self.drawing(one) as draws:
                returned = forward(namespace, *given, *totals)
            loss, *others = returned if self.program.outputs else (returned,)
            if backward and loss.requires_grad:
                loss.backward(torch.full_like(loss, self.seed))
            losses[number] = loss.detach()
            outputs[number] = [other.detach() for other in others]
            drawn = drawn or tuple(draws.drawn)
        if self.queued is None:
            loss = torch.stack(list(losses.values())).sum()
        else:
            loss = self.queued.settled(losses, self.inputs[0][0].device)
        return (handed(loss, self.tensors, leaves, self.seed) if backward else loss), outputs, drawn
