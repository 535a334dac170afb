"""The tensor that one rank holds, cut into boxes on a partition.

With P_j the restriction of the tensor to the box of the j-th rank of the target, a the memory of the root and b_j that
of the box:

    forward    F  = D_a M_ab_n ... M_ab_1 A_b       y_j = P_j x             a message to each target rank
    adjoint    F* = D_b M_ab_1* ... M_ab_n* A_a     dx  = sum_j P_j* dy_j   M_ab* = M_ba, to disjoint places: `gather_to`

where M_ab_j moves the entries of the box from a; boxes are disjoint, so that no entry is moved twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from autopar.runtime.partitions.agreement import agree
from autopar.runtime.partitions.box_exchange import rearrange
from autopar.runtime.partitions.partition import Partition, one_rank, same_comm


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
    return rearrange(agreed.connected(x, source.active), agreed.dtype, source.comm, whole, parts)
