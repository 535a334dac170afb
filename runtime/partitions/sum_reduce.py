"""Sums of the tensors of one partition on another, along the dims where the second has extent 1.

Let a_1, ..., a_n be the memories of the source ranks whose tensors go into one sum, and b that of its target rank:

    forward    R  = D_a S_a_nb ... S_a_1b A_b     y    = sum_i x_i      up a tree: log2 n rounds of messages
    adjoint    R* = D_b S_ba_1 ... S_ba_n A_a     dx_i = dy             S_ab* = S_ba, into new memory: down the tree

R is the adjoint of the `broadcast` from the target to the source, R = B*, and so R* = B. Short floats are summed in
float32 and rounded once; booleans are "any".
"""

from __future__ import annotations

from torch import Tensor

from autopar.runtime.partitions.agreement import agree, between_partitions
from autopar.runtime.partitions.broadcast_tree import copies_into
from autopar.runtime.partitions.partition import Partition, copy_groups

_sum_reduce = between_partitions(lambda x, copies: copies.up(x), lambda dy, copies: copies.down(dy))


def sum_reduce(x: Tensor, source: Partition, target: Partition) -> Tensor:
    """On every rank of `target` the sum of the tensors `x` of the ranks of `source` behind it, elsewhere nothing.

    Collective over the communicator. Raises ConfigError where the partitions do not go together, ProgramMismatch where
    the addends of a sum differ in shape or type.
    """
    copy_groups(target, source)  # refuses before a message is sent
    agreed = agree("sum_reduce", x, source.comm, source.ranks)
    return _sum_reduce(agreed.connected(x, source.active), copies_into(target, source, agreed))
