"""The tensor that one rank holds, cut into boxes on a partition.

With P_j the restriction of the tensor to the box of the j-th rank of the target, a the memory of the root and b_j that
of the box:

    forward    F  = D_a M_ab_n ... M_ab_1 A_b       y_j = P_j x             a message to each target rank
    adjoint    F* = D_b M_ab_1* ... M_ab_n* A_a     dx  = sum_j P_j* dy_j   M_ab* = M_ba, to disjoint places: `gather_to`

where M_ab_j moves the entries of the box from a; boxes are disjoint, so that no entry is moved twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from autopar.runtime.partitions.agreement import Brought, agree, returned
from autopar.runtime.partitions.box_exchange import rearrange
from autopar.runtime.partitions.partition import Decomposition, Partition, one_rank, same_comm
from autopar.runtime.primitives.autograd import apply
from autopar.runtime.transport.base import Comm


class _Context(FunctionCtx):
    comm: Comm
    cuts: tuple[Decomposition, Decomposition]
    brought: Brought


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, x: Tensor, comm: Comm, whole: Decomposition, parts: Decomposition, dtype: torch.dtype
    ) -> Tensor:
        ctx.comm, ctx.cuts, ctx.brought = comm, (whole, parts), (x.shape, x.dtype)
        return rearrange(x, dtype, comm, whole, parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        whole, parts = ctx.cuts
        return returned(rearrange(grad, grad.dtype, ctx.comm, parts, whole), ctx.brought), None, None, None, None


def scatter(x: Tensor, source: Partition, target: Partition, bounds: Sequence[Sequence[int]] | None = None) -> Tensor:
    """This rank's box on `target` of the tensor `x` that the one rank of `source` holds; elsewhere nothing.

    The tensor is cut evenly, or at `bounds`, which has for every dim where it is cut. Collective over the
    communicator. Raises ConfigError unless `source` is a single rank, ProgramMismatch where the tensor does not fit
    `target`.
    """
    same_comm(source, target)
    one_rank("scatter", source)
    agreed = agree("scatter", x, source.comm, source.ranks)
    shape = agreed.shapes[source.ranks[0]]
    whole, parts = source.cut(shape), target.cut(shape, bounds)
    return apply(_Scatter, agreed.connected(x, source.active), source.comm, whole, parts, agreed.dtype)
