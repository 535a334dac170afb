"""Look-up in a table whose rows lie on several ranks: each rank looks up the rows that it holds.

With L_r the rows of rank r, i the indices (the same on every rank) and w the table:

    forward    y[b] = sum over ranks of [i[b] in L_r] w_r[i[b]]      this rank's addend: zeros for foreign rows
    adjoint    dw_r[l] = sum over b with i[b] = l of dy[b]           dy is the same on every rank; nothing is sent

Only the rank's own tokens are read and written, so that the work is divided as well. `padding_idx` is a row without
gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.grid.shard_positions import Place, rows_of
from autopar.runtime.primitives.autograd import Context, apply


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, weight: Tensor, local: Tensor, mine: Tensor, padding: int) -> Tensor:
        at = mine.flatten().nonzero().squeeze(1)
        own = local.flatten().index_select(0, at)
        ctx.save_for_backward(own, at)
        ctx.arguments = weight.shape[0], padding, local.numel()
        rows = weight.new_zeros(local.numel(), weight.shape[1])
        rows.index_copy_(0, at, weight.index_select(0, own))
        return rows.view(*local.shape, weight.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        (own, at), (rows, padding, tokens) = ctx.saved_tensors, ctx.arguments
        mine = grad.reshape(tokens, grad.shape[-1]).index_select(0, at)
        into = torch.ops.aten.embedding_dense_backward(mine, own, rows, padding, False)
        return into, None, None, None


def embedding(indices: Tensor, weight: Tensor, padding_idx: int | None = None, over: Place | None = None) -> Tensor:
    """`torch.nn.functional.embedding`; with `over`, the place of the rows of `weight`, this rank's addend of it.

    `indices` [...] count the rows of the whole table, `weight` is [own rows, features]. The result is Partial over the
    axes that cut the rows.
    """
    if over is None:
        return F.embedding(indices, weight, padding_idx)
    local, mine = own_rows(indices, over)
    padding = -1
    if padding_idx is not None:
        place, own = own_rows(torch.tensor([padding_idx]), over)
        padding = int(place[0]) if own[0] else -1
    return apply(_Embedding, weight, local, mine, padding)


def own_rows(indices: Tensor, over: Place) -> tuple[Tensor, Tensor]:
    """The place of each index among this rank's rows, and whether it is there (elsewhere its place means nothing)."""
    rows = rows_of(over)
    if isinstance(rows, range):
        return indices - rows.start, (indices >= rows.start) & (indices < rows.stop)
    if not len(rows):
        return torch.zeros_like(indices), torch.zeros_like(indices, dtype=torch.bool)
    rows = rows.to(indices.device)
    place = torch.searchsorted(rows, indices).clamp(max=len(rows) - 1)
    return place, rows[place] == indices
