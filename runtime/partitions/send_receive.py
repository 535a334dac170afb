"""The tensors of one partition on the ranks of another of the same shape, one to one.

Let a be the memory of the sender and b that of the receiver:

    forward    F  = D_a C_ab A_b        y  = x          a message from a to b, where they are two ranks
    adjoint    F* = D_b C_ab* A_a       dx = dy         C_ab* = K_b S_ba: a message back, added to what A_a has cleared

Neither memory is used twice, so that adding is receiving, and the adjoint is the same operator from `target` to `source`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autopar.errors import ConfigError, refusal
from autopar.runtime.partitions.agreement import agree, between_partitions
from autopar.runtime.partitions.partition import Partition, same_comm


def send_receive(x: Tensor, source: Partition, target: Partition) -> Tensor:
    """On the i-th rank of `target` the tensor `x` of the i-th rank of `source`, elsewhere nothing.

    Collective over the communicator. Raises ConfigError where the shapes of the partitions differ.
    """
    same_comm(source, target)
    if source.shape != target.shape:
        rule = "tensors are sent one to one between partitions of the same shape"
        problem = f"from {source} to {target}"
        raise ConfigError(refusal("send_receive", problem, rule, (), "broadcast, sum_reduce or repartition"))
    agreed = agree("send_receive", x, source.comm, source.ranks)
    shapes = tuple(agreed.shapes[rank] for rank in source.ranks)
    return _send_receive(agreed.connected(x, source.active), source, target, shapes, agreed.dtype)


def _sent(
    x: Tensor, source: Partition, target: Partition, shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype
) -> Tensor:
    """On ranks of `target` the `x` of their counterparts, of shape ``shapes[place]``; elsewhere nothing."""
    y = x.new_empty((0,) if target.place is None else shapes[target.place], dtype=dtype)
    to = None if source.place is None else target.ranks[source.place]
    origin = None if target.place is None else source.ranks[target.place]
    me = source.comm.rank
    if origin == me:
        y.copy_(x)
    sends = {} if to in (None, me) else {to: x.contiguous()}
    recvs = {} if origin in (None, me) else {origin: y}
    source.comm.exchange(sends, recvs)
    return y


_send_receive = between_partitions(
    _sent, lambda dy, source, target, shapes, dtype: _sent(dy, target, source, shapes, dtype)
)
