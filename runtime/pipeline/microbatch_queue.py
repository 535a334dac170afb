"""Micro-batches that replicas draw from a queue: who is faster computes more of them, whatever made the others slow.

The queue is a number that MPI's one-sided fetch-and-op counts up (`autopar.runtime.transport.base.Counter`). The first rank of a
replica draws it, and tells the others of its replica. A step of n micro-batches is done for a replica when it draws one beyond
the n-th; each of R replicas does so once, so that step k begins at number k (n + R), and nothing is ever set back.

    draws     0 1 2 ...   whoever is free takes the next; the sum of the losses, at the end, waits for all
    loss      each addend at its place of a vector, zero elsewhere; summed over the replicas, then added up in order: to the bit the
              same whoever computed what
    gradients addends of every replica, summed over the replicas with those of copied parameters (`gradient_buckets`)
    buffers   what the step has written, by the replica that computed the last micro-batch

Any replica may compute any micro-batch, since all have the whole batch and the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autopar.errors import ConfigError, refusal
from autopar.runtime.grid.counter_rng import DrawnTensor
from autopar.runtime.grid.grid import Axis, Grid
from autopar.runtime.transport.base import Comm

_LOSSES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class MicrobatchQueue:
    """The queue of one grid's replicas, over all steps. Making and freeing it is collective."""

    def __init__(self, grid: Grid) -> None:
        assert grid.queue is not None
        self.axis: Axis = grid.queue
        self._group: Comm = grid.group
        self._counter = self.axis.comm.counter() if self._group.rank == 0 else None
        self._begun = 0  # the number of the next step's first micro-batch

    def step(self, microbatches: int, tensors: Mapping[str, Tensor]) -> QueuedStep:
        """The next step, of so many micro-batches; `tensors` are those of the program."""
        first, self._begun = self._begun, self._begun + microbatches + self.axis.size
        return QueuedStep(self, first, microbatches, tensors)

    def next(self) -> int:
        """The next number of the queue, for all ranks of this replica. Collective over these."""
        number = torch.tensor(0 if self._counter is None else self._counter.draw())
        if self._group.size > 1:
            self._group.broadcast(number, 0)
        return int(number)

    def first(self, drawn: Sequence[DrawnTensor]) -> tuple[DrawnTensor, ...]:
        """The random tensors of a micro-batch, which are alike in all, from a replica that has computed one. Collective."""
        rows = self.axis.comm.gather_objects([[kind, list(shape)] for kind, shape in drawn])
        known = next((theirs for theirs in rows if theirs), [])
        return tuple((kind, tuple(shape)) for kind, shape in known)  # type: ignore[attr-defined]

    def refused_parts(self) -> ConfigError:
        """The refusal of inputs of which every rank has its own part."""
        rule = "a replica may draw any micro-batch, and so is given the whole batch"
        fix = (
            "pass the whole batch on every rank, parallel(**batch), or compile for a grid without a queue, as --grid 2"
        )
        return ConfigError(refusal(f"queue {self.axis.name}", "inputs are given in parts", rule, fix=fix))

    def free(self) -> None:
        """Give the counter back."""
        if self._counter is not None:
            self._counter.free()
        self._counter = None


class QueuedStep:
    """One step: the micro-batches that this replica draws, and what all replicas make of them together.

    `owners` are the replicas that have computed each micro-batch, and `device` is where, once the step is `settled`.
    """

    def __init__(self, queue: MicrobatchQueue, first: int, microbatches: int, tensors: Mapping[str, Tensor]) -> None:
        self._queue = queue
        self._first = first
        self._count = microbatches
        self._tensors = list(tensors.values())
        self._versions = [tensor._version for tensor in self._tensors]
        self.owners: Sequence[int] = ()
        self.device = torch.device("cpu")

    @property
    def axis(self) -> Axis:
        """The replicas."""
        return self._queue.axis

    def draws(self, forward: Callable[..., Any]) -> Iterator[int]:
        """The micro-batches that this replica computes with `forward`, each drawn when what was made of the one before is done."""
        code = forward.__code__
        while (drawn := self._queue.next() - self._first) < self._count:
            assert drawn >= 0, "a number of an earlier step is still in the queue"
            said = f"the start of micro-batch {drawn} of {self._count}"
            self.axis.comm.note(said, code.co_filename, code.co_firstlineno)
            yield drawn

    def settled(self, losses: Mapping[int, Tensor], device: torch.device) -> Tensor:
        """The loss of the step, from the addends of the micro-batches that were computed here. Collective.

        Buffers then have their new values on all replicas.
        """
        count, axis, self.device = self._count, self.axis, device
        changed = [version != tensor._version for version, tensor in zip(self._versions, self._tensors, strict=True)]
        told = torch.zeros(2 * count + 1 + len(changed), dtype=torch.float64, device=device)
        for number, loss in losses.items():
            told[number] = loss
            told[count + number] = axis.index
        if count - 1 in losses:
            told[2 * count] = _LOSSES.index(losses[count - 1].dtype)
            told[2 * count + 1 :] = torch.tensor(changed, dtype=torch.float64)
        axis.comm.all_reduce(told)
        self.owners = [int(owner) for owner in told[count : 2 * count].tolist()]
        kind, *written = (int(number) for number in told[2 * count :].tolist())
        with torch.no_grad():
            for tensor, new in zip(self._tensors, written, strict=True):
                if new:
                    self._spread(tensor.detach())
        return told[:count].to(_LOSSES[kind]).sum()

    def _spread(self, tensor: Tensor) -> None:
        """A buffer as the replica of the last micro-batch has it."""
        if not tensor.is_contiguous():
            room = tensor.contiguous()
            self.axis.comm.broadcast(room, self.owners[-1])
            tensor.copy_(room)
        else:
            self.axis.comm.broadcast(tensor, self.owners[-1])
