"""The primitives on axes of a grid, each with the layouts that it leads from and to.

These are the cells of the table of conversions that one function performs, and the halo exchange. The two others, Partial
to Copied and Copied to Partial, are two functions one after another (`autopar.runtime.verification.conversion_cases`).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from autopar.ir.layout import Copied, Layout, Partial, Replicate, Shard
from autopar.runtime.primitives.all_gather import all_gather
from autopar.runtime.primitives.all_sum import all_sum
from autopar.runtime.primitives.all_to_all import all_to_all
from autopar.runtime.primitives.copy import copy
from autopar.runtime.primitives.count_once import once
from autopar.runtime.primitives.gather import gather
from autopar.runtime.primitives.halo import halo
from autopar.runtime.primitives.keep_first import keep
from autopar.runtime.primitives.reduce_scatter import reduce_scatter
from autopar.runtime.primitives.slice_copied import take
from autopar.runtime.primitives.split import split
from autopar.runtime.primitives.zero_fill import zero_fill

REPLICATE, COPIED, PARTIAL, SHARD = Replicate(), Copied(), Partial(), Shard(0)
CONVERSIONS: tuple[tuple[Callable[..., Tensor], Layout, Layout], ...] = (
    (split, REPLICATE, SHARD),
    (keep, REPLICATE, PARTIAL),
    (copy, REPLICATE, COPIED),
    (gather, SHARD, REPLICATE),
    (all_to_all, SHARD, SHARD),
    (zero_fill, SHARD, PARTIAL),
    (all_gather, SHARD, COPIED),
    (all_sum, PARTIAL, REPLICATE),
    (reduce_scatter, PARTIAL, SHARD),
    (once, COPIED, REPLICATE),
    (take, COPIED, SHARD),
)
PRIMITIVES = (*CONVERSIONS, (halo, SHARD, SHARD))
