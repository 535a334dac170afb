"""Copies of the tensors of one partition on another, along the dims where the first has extent 1.

Let a be the memory of a source rank, and b_1, ..., b_n those of the target ranks that it is copied to (see
`autopar.runtime.partitions.partition` for which these are). Where the source rank is in the target too, b_1 is other memory of it:

    forward    B  = D_a C_ab_n ... C_ab_1 A_b     y_j = x             down a tree: log2 n rounds of messages
    adjoint    B* = D_b C_ab_1* ... C_ab_n* A_a   dx  = sum_j dy_j    C_ab* = K_b S_ba, add and clear: up the tree

`sum_reduce` from the target to the source is the adjoint.
"""

from __future__ import annotations

from torch import Tensor

from autopar.runtime.partitions.agreement import agree, between_partitions
from autopar.runtime.partitions.broadcast_tree import copies_from
from autopar.runtime.partitions.partition import Partition, copy_groups

_broadcast = between_partitions(lambda x, copies: copies.down(x), lambda dy, copies: copies.up(dy))


def broadcast(x: Tensor, source: Partition, target: Partition) -> Tensor:
    """On every rank of `target` a copy of the tensor `x` of the rank of `source` that stands before it, else nothing.

    Collective over the communicator. Raises ConfigError where the partitions do not go together.
    """
    copy_groups(source, target)  # refuses before a message is sent
    agreed = agree("broadcast", x, source.comm, source.ranks)
    return _broadcast(agreed.connected(x, source.active), copies_from(source, target, agreed))
