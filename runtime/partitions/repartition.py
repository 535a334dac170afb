"""A tensor in one decomposition to another decomposition of it, on any ranks: the general all-to-all.

Let P_i be the restriction of the whole tensor to the box of the i-th rank before, Q_j to that of the j-th after, and
R_ij = Q_j P_i* what both share, a box:

    forward    y_j  = sum_i R_ij x_i        D_a (prod_ij M_ij) A_b, where M_ij moves the box: one message
    adjoint    dx_i = sum_j R_ij* dy_j      D_b (prod_ij M_ij*) A_a: the same with the two decompositions exchanged

Since the pieces of one box are disjoint, and cover it, the sums add nothing to anything: they are copies into place,
and the operator is orthogonal. With one rank on either side this is `scatter` and `gather_to`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from autopar.runtime.partitions.agreement import agree
from autopar.runtime.partitions.box_exchange import observed, rearrange
from autopar.runtime.partitions.partition import Partition, same_comm


def repartition(
    x: Tensor, source: Partition, target: Partition, bounds: Sequence[Sequence[int]] | None = None
) -> Tensor:
    """This rank's box on `target` of the tensor whose boxes on `source` are the tensors `x`; elsewhere nothing.

    The tensors on `source` may be cut unevenly: their shapes say where. On `target` the tensor is cut evenly, or at
    `bounds`, which has for every dim where it is cut. Both partitions have the dims of the tensor; one of a single
    rank may have any number. Where both decompositions are the same, `x` is returned and no tensor is sent.
    Collective over the communicator. Raises ProgramMismatch where shapes, partitions and bounds do not fit.
    """
    same_comm(source, target)
    agreed = agree("repartition", x, source.comm, source.ranks)
    before = observed(agreed, source)
    after = target.cut(before.shape, bounds)
    if before == after and source.active:
        return agreed.connected(x, True)
    return rearrange(agreed.connected(x, source.active), agreed.dtype, source.comm, before, after)
