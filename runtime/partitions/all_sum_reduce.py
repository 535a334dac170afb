"""The sum over some dims of a partition, on all of its ranks.

Let R be the sum over the ranks that differ in these dims only, to the first of them, and B the copy back, its adjoint
(`sum_reduce`, `broadcast`):

    forward    F  = B R                 y_j  = sum_i x_i        an all-reduce in every such group of ranks
    adjoint    F* = R* B* = B R         dx_i = sum_j dy_j       itself

This is the sum whose results are used by each rank on its own, in the layouts' words Partial to Copied; the gradients of
the copies are added. `all_sum` is the other one, whose result is one replicated tensor, and whose adjoint does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from autopar.errors import ConfigError, refusal
from autopar.ir.grid import unravel
from autopar.runtime.partitions.agreement import Agreement, agree, between_partitions
from autopar.runtime.partitions.partition import Partition
from autopar.runtime.transport.base import Comm


def all_sum_reduce(x: Tensor, partition: Partition, dims: Iterable[int]) -> Tensor:
    """On every rank of `partition` the sum of `x` over the ranks that differ from it in `dims` only; elsewhere nothing.

    Over no dims this is a clone. Collective over the communicator. Raises ConfigError for a dim that the partition has
    not, ProgramMismatch where the addends of a sum differ in shape or type.
    """
    over = frozenset(dims)
    wrong = sorted(dim for dim in over if not 0 <= dim < partition.dims)
    if wrong:
        rule = f"the dims of {partition} are 0 to {partition.dims - 1}"
        raise ConfigError(refusal("all_sum_reduce", f"dims {wrong}", rule))
    agreed = agree("all_sum_reduce", x, partition.comm, partition.ranks)
    _check(agreed, partition, over)
    return _all_sum_reduce(agreed.connected(x, partition.active), partition.group(over), agreed.dtype)


def _summed(x: Tensor, comm: Comm | None, dtype: torch.dtype) -> Tensor:
    if comm is None:
        return x.new_empty(0, dtype=dtype)
    y = x.clone(memory_format=torch.contiguous_format)
    comm.all_reduce(y)
    return y


_all_sum_reduce = between_partitions(_summed, _summed)


def _check(agreed: Agreement, partition: Partition, over: frozenset[int]) -> None:
    """One shape per group: that of its first rank."""
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
    for place, rank in enumerate(partition.ranks):
        outer = tuple(0 if dim in over else i for dim, i in enumerate(unravel(place, partition.shape)))
        if shapes.setdefault(outer, agreed.shapes[rank]) != agreed.shapes[rank]:
            rule = f"the addends of one sum, over dims {sorted(over)} of {partition}, have one shape"
            raise agreed.refuse("addends of different shapes", rule, partition.ranks)
