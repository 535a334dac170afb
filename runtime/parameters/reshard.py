"""Moving the boundaries of an axis between two steps, and with them whatever is sharded over it.

Parameters, buffers, gradients and the optimizer's state of the same shape are put together under the old cuts and cut
under the new ones, one tensor at a time. On an axis that no parameter is sharded over, nothing has to move at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from autopar.ir.layout import Layouts, Shard
from autopar.runtime.grid.grid import Grid
from autopar.runtime.grid.memory_format import order
from autopar.runtime.parameters.minimum_rows import check_minimum_rows
from autopar.runtime.parameters.shards import gather_whole, take_part
from autopar.runtime.program.plan_reader import MinimumRows, TensorSpec

Held = tuple[TensorSpec, Layouts, Tensor]


def move(
    grid: Grid,
    axis: int,
    cuts: Sequence[float] | None,
    held: Sequence[Held],
    optimizer: torch.optim.Optimizer | None,
    filled: Sequence[MinimumRows] = (),
) -> None:
    """Set the cuts of an axis and move the parts of all `held` tensors. Collective; alike on every rank.

    Raises ConfigError, and leaves everything as it was, where the cuts leave a rank without a row of a `filled` factor.
    """
    before = grid.axes[axis].cuts
    grid.axes[axis].move(cuts)
    try:
        check_minimum_rows(grid.axes, filled)
    finally:
        grid.axes[axis].move(before)
    for item, layouts, tensor in held:
        if isinstance(layouts[axis], Shard):
            _move_tensor(tensor, optimizer, partial(_moved, item.shape, layouts, grid, axis, (before, cuts)))
    grid.axes[axis].move(cuts)


def _moved(
    shape: Sequence[int],
    layouts: Layouts,
    grid: Grid,
    axis: int,
    cuts: tuple[Sequence[float] | None, Sequence[float] | None],
    part: Tensor,
) -> Tensor:
    """This rank's part under the new cuts. Leaves the axis at the old ones, at which the next tensor is still cut."""
    whole = gather_whole(part, shape, layouts, grid.axes)
    grid.axes[axis].move(cuts[1])
    moved = take_part(whole, layouts, grid.axes)
    grid.axes[axis].move(cuts[0])
    return moved.contiguous(memory_format=order(part))


def _move_tensor(tensor: Tensor, optimizer: torch.optim.Optimizer | None, moved: Callable[[Tensor], Tensor]) -> None:
    """Move a parameter or buffer, its gradient, and what the optimizer keeps for each of its elements."""
    shape, gradient = tensor.shape, tensor.grad
    state = optimizer.state.get(tensor, {}) if optimizer is not None else {}
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == shape:
            state[key] = moved(value)
    tensor.grad = None
    part = moved(tensor.detach())
    # A graph that is still alive keeps the node that accumulates this gradient, which keeps the old shape. A new one is
    # made when the dtype changes, but not when the shape does: hence by way of another dtype.
    tensor.data = torch.empty(0, dtype=torch.float16 if part.dtype != torch.float16 else torch.float32)
    tensor.data = part
    if gradient is not None:
        tensor.grad = moved(gradient)
