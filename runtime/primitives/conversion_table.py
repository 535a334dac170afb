"""The primitives on axes of a grid, each with the layouts that it leads from and to.

These are the rows of `autopar.ir.conversions`, and the halo exchange. The two others, Partial
to Copied and Copied to Partial, are two functions one after another (`conversion`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from autopar.ir.conversions import PRIMITIVES, primitive_of
from autopar.ir.layout import Copied, Layout, Partial, Replicate, Shard
from autopar.runtime.grid.grid import Axis
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
_LAYOUTS: Mapping[type[Layout], Layout] = {type(layout): layout for layout in (REPLICATE, COPIED, PARTIAL, SHARD)}
FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (split, keep, copy, gather, all_to_all, zero_fill, all_gather, all_sum, reduce_scatter, once, take)
}
CONVERSIONS: tuple[tuple[Callable[..., Tensor], Layout, Layout], ...] = tuple(
    (FUNCTIONS[name], _LAYOUTS[row.before], _LAYOUTS[row.after]) for name, row in PRIMITIVES.items()
)
WITH_HALO = (*CONVERSIONS, (halo, SHARD, SHARD))


def conversion(axis: Axis, source: Layout, target: Layout, extent: int) -> Callable[[Tensor], Tensor]:
    """The function of one cell of the table of conversions; `extent` is the whole extent of a sharded source's dim."""
    s = source if isinstance(source, Shard) else target if isinstance(target, Shard) else Shard(0)
    cut, joined = (s.dim, axis, s.blocks, s.unit), (s.dim, axis, extent, s.blocks, s.unit)
    match source, target:
        case Shard(), Shard():
            return lambda x: all_to_all(x, axis, source, target, extent)
        case Partial(), Copied():
            return lambda x: copy(all_sum(x, axis), axis)
        case Copied(), Partial():
            return lambda x: keep(once(x, axis), axis)
    name = primitive_of(source, target)
    assert name is not None, f"{source} to {target} is no cell"
    function, row = FUNCTIONS[name], PRIMITIVES[name]
    arguments = cut if row.cuts else joined if row.joins else (axis,)
    return lambda x: function(x, *arguments)
