"""A batch in micro-batches: the rows of each, the counts of the whole batch, gradients put aside, outputs joined again.

A micro-batch is a call of the program with some rows of the batch: those from `start` to `stop` of the whole batch, of which every
rank takes its part as it takes its part of a batch. Its loss and gradients are addends of the step's. Random numbers go by the
place of a row in the whole batch.

    loss = parallel(**batch)      F0 B0 F1 B1 ...: forward and backward of each micro-batch, with their gradients put aside
    loss.backward()               hands autograd what was put aside, times the gradient of the loss
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autopar.ir.layout import Layouts, Partial, Shard, parse_layout
from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_positions import BatchRows
from autopar.runtime.parameters.shards import local_shape, view_part
from autopar.runtime.pipeline.handing import hand_over
from autopar.runtime.program.namespace import CurrentCall


@dataclass(frozen=True, slots=True)
class Microbatch:
    """The rows from `start` to `stop` of a batch of so many `rows`."""

    start: int
    stop: int
    rows: int

    @property
    def size(self) -> int:
        """Its rows, on all ranks together."""
        return self.stop - self.start

    @property
    def share(self) -> float:
        """Its part of the rows of the batch."""
        return self.size / self.rows

    @property
    def place(self) -> BatchRows:
        """Where its rows are in the batch, for random numbers."""
        return BatchRows(self.start, self.rows)

    def enter(self, call: CurrentCall, *, training: bool) -> None:
        """Let the namespace of a program speak of this micro-batch."""
        call.batch, call.share, call.last, call.training = self.size, self.share, self.stop == self.rows, training


def microbatches_of(bounds: Sequence[int]) -> tuple[Microbatch, ...]:
    """The micro-batches between these bounds."""
    return tuple(Microbatch(low, high, bounds[-1]) for low, high in itertools.pairwise(bounds))


def whole_input_parts(
    tensors: Mapping[str, Tensor],
    batched: Sequence[str],
    one: Microbatch,
    layouts: Mapping[str, Layouts],
    axes: Sequence[Axis],
) -> dict[str, Tensor]:
    """This rank's parts of the inputs of a micro-batch, from the inputs of the whole batch."""
    rows = {name: x[one.start : one.stop] if name in batched else x for name, x in tensors.items()}
    return {name: view_part(x, layouts[name], axes) for name, x in rows.items()}


def own_input_parts(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    batched: Sequence[str],
    every: Sequence[Microbatch],
    layouts: Mapping[str, Layouts],
    axes: Sequence[Axis],
) -> list[dict[str, Tensor]]:
    """The inputs of every micro-batch, from a rank's own rows of all of them, one micro-batch after another."""
    found: list[dict[str, Tensor]] = [dict(tensors) for _ in every]
    for name in batched:
        sizes = [local_shape((one.size, *shapes[name][1:]), layouts[name], axes)[0] for one in every]
        for parts, rows in zip(found, torch.split(tensors[name], sizes), strict=True):
            parts[name] = rows
    return found


def counted(
    counts: Callable[..., Any],
    namespace: object,
    call: CurrentCall,
    every: Sequence[Microbatch],
    inputs: Sequence[Sequence[Tensor]],
    dtypes: Sequence[torch.dtype],
) -> list[Tensor]:
    """The counts of the whole batch, as forward takes them: `counts` of every micro-batch, summed, without gradients."""
    totals: list[Tensor] = []
    with torch.no_grad():
        for one, given in zip(every, inputs, strict=True):
            one.enter(call, training=call.training)
            made = counts(namespace, *given)
            addends = made if isinstance(made, tuple) else (made,)
            totals = [a + b for a, b in zip(totals, addends, strict=True)] if totals else list(addends)
    return [total.to(dtype) for total, dtype in zip(totals, dtypes, strict=True)]


def apart(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the memory of the parameters whose gradients are put aside; all else is as it is."""
    leaves: dict[Tensor, Tensor] = {}
    for tensor in parameters.values():
        if tensor.requires_grad and tensor not in leaves:
            leaves[tensor] = tensor.detach().requires_grad_()
    return {name: leaves.get(tensor, tensor) for name, tensor in parameters.items()}


def handed(loss: Tensor, parameters: Mapping[str, Tensor], leaves: Mapping[str, Tensor], seed: float = 1.0) -> Tensor:
    """The loss, whose backward hands on the gradients that were put aside on the `leaves`, computed for this `seed`."""
    pairs = {
        id(leaves[name]): (leaves[name], tensor) for name, tensor in parameters.items() if leaves[name] is not tensor
    }
    gradients = [leaf.grad for leaf, _ in pairs.values()]
    for leaf, _ in pairs.values():
        leaf.grad = None
    return hand_over(loss, gradients, [tensor for _, tensor in pairs.values()], seed)


def joined(parts: Sequence[Tensor], every: Sequence[Microbatch], layout: str) -> Tensor:
    """A tensor of the whole batch, from those of its micro-batches, of which each is whole on this rank, or this rank's part."""
    if layout == "mean":
        return torch.stack([part * one.share for part, one in zip(parts, every, strict=True)]).sum(0)
    lies = parse_layout(layout)
    if isinstance(lies, Partial):
        return torch.stack(list(parts)).sum(0)
    if not isinstance(lies, Shard):
        return parts[-1]
    if lies.blocks == 1:
        return torch.cat(list(parts), lies.dim)
    dim = lies.dim
    blocks = [part.reshape(*part.shape[:dim], lies.blocks, -1, *part.shape[dim + 1 :]) for part in parts]
    return torch.cat(blocks, dim + 1).flatten(dim, dim + 1)
