"""The tensors of one partition on the ranks of another of the same shape, one to one.

Let a be the memory of the sender and b that of the receiver:

    forward    F  = D_a C_ab A_b        y  = x          a message from a to b, where they are two ranks
    adjoint    F* = D_b C_ab* A_a       dx = dy         C_ab* = K_b S_ba: a message back, added to what A_a has cleared

Neither memory is used twice, so that adding is receiving, and the adjoint is the same operator from `target` to `source`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from autopar.errors import ConfigError, refusal
from autopar.runtime.partitions.agreement import Agreement, Brought, agree, returned
from autopar.runtime.partitions.partition import Partition, same_comm
from autopar.runtime.primitives.autograd import apply


class _Context(FunctionCtx):
    ends: tuple[Partition, Partition]
    agreed: Agreement
    brought: Brought


class _SendReceive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, source: Partition, target: Partition, agreed: Agreement) -> Tensor:
        ctx.ends, ctx.agreed, ctx.brought = (source, target), agreed, (x.shape, x.dtype)
        shape = (0,) if target.place is None else agreed.shapes[source.ranks[target.place]]
        return _send(x, source, target, x.new_empty(shape, dtype=agreed.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        source, target = ctx.ends
        dx = grad.new_empty(ctx.brought[0] if source.active else (0,), dtype=ctx.agreed.dtype)
        return returned(_send(grad, target, source, dx), ctx.brought), None, None, None


def send_receive(x: Tensor, source: Partition, target: Partition) -> Tensor:
    """On the i-th rank of `target` the tensor `x` of the i-th rank of `source`, elsewhere nothing.

    Collective over the communicator. Raises ConfigError where the shapes of the partitions differ.
    """
    same_comm(source, target)
    if source.shape != target.shape:
        rule = "tensors are sent one to one between partitions of the same shape"
        given = f"from {source} to {target}"
        raise ConfigError(refusal("send_receive", given, rule, (), "broadcast, sum_reduce or repartition"))
    agreed = agree("send_receive", x, source.comm, source.ranks)
    return apply(_SendReceive, agreed.connected(x, source.active), source, target, agreed)


def _send(x: Tensor, source: Partition, target: Partition, y: Tensor) -> Tensor:
    """Fill `y`, on ranks of `target`, with the `x` of their counterparts."""
    to = None if source.place is None else target.ranks[source.place]
    origin = None if target.place is None else source.ranks[target.place]
    me = source.comm.rank
    if origin == me:
        y.copy_(x)
    sends = {} if to in (None, me) else {to: x.contiguous()}
    recvs = {} if origin in (None, me) else {origin: y}
    source.comm.exchange(sends, recvs)
    return y
