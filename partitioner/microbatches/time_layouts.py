"""How one tensor lies over the micro-batches of a batch: the layouts of an axis of time.

    Replicate   the same in every micro-batch: it does not depend on the batch
    Shard       a micro-batch has its rows of the dim
    Partial     a micro-batch has an addend
    Mean        the tensor is the mean of the micro-batches', each weighted by its share of the rows
    RowNumbers  the numbers of the batch's rows; a micro-batch has those of its own rows, from 0 on

Every use of a whole tensor in a micro-batch yields an addend of its gradient: gradient accumulation is the adjoint of that copy.
What passes along the axis costs nothing but where rows meet: nothing else is allowed, since micro-batches run one after another.
From Replicate or Mean to Partial a tensor is multiplied by the share, which is linear and sums to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from autopar.ir.layout import Partial, Replicate, Shard


@dataclass(frozen=True, slots=True)
class Mean:
    """The tensor is the sum over the micro-batches of their share of the rows times what they have."""

    def __str__(self) -> str:
        return "mean"


@dataclass(frozen=True, slots=True)
class RowNumbers:
    """``arange(rows)``, along this dim. It may be read to pick from rows of the batch, by whatever numbers these have."""

    dim: int


TimeLayout = Replicate | Shard | Partial | Mean | RowNumbers
WHOLE, ADDEND, MEAN = Replicate(), Partial(), Mean()


class Stuck(Exception):
    """Why a call cannot be computed micro-batch by micro-batch."""


class Unsummed(Stuck):
    """It reads these operands whole, which are sums or means over the batch that no micro-batch knows."""

    def __init__(self, operands: tuple[int, ...], why: str) -> None:
        super().__init__(why)
        self.operands = operands
