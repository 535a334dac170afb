"""The tensor that lies in boxes on a partition, whole on one rank. (`gather` makes it whole on every rank.)

With P_i the restriction of the tensor to the box of the i-th rank of the source, a_i the memory of the box and b that
of the root:

    forward    F  = D_a M_a_nb ... M_a_1b A_b       y    = sum_i P_i* x_i   a message from each source rank
    adjoint    F* = D_b M_a_1b* ... M_a_nb* A_a     dx_i = P_i dy           M_ab* = M_ba: `scatter`

where M_a_ib moves the entries of a_i to their places in b; boxes are disjoint, so that the sum adds nothing.
"""

from __future__ import annotations

from torch import Tensor

from autopar.runtime.partitions.agreement import agree
from autopar.runtime.partitions.box_exchange import observed, rearrange
from autopar.runtime.partitions.partition import Partition, one_rank, same_comm


def gather_to(x: Tensor, source: Partition, target: Partition) -> Tensor:
    """On the one rank of `target` the tensor whose boxes on `source` are the tensors `x`; elsewhere nothing.

    It may be cut unevenly: the shapes of the boxes say where. Collective over the communicator. Raises ConfigError
    unless `target` is a single rank, ProgramMismatch where the boxes make up no tensor.
    """
    same_comm(source, target)
    one_rank("gather_to", target)
    agreed = agree("gather_to", x, source.comm, source.ranks)
    parts = observed(agreed, source)
    whole = target.cut(parts.shape)
    return rearrange(agreed.connected(x, source.active), agreed.dtype, source.comm, parts, whole)
