"""Slices that begin where a tensor says, as capture makes of ``x[ptr : ptr + n]`` with a whole number ptr of a buffer.

rows_from    y[i] = ptr + i      an index for what reads or writes the rows; whole, as such an index is
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autopar.ops.record.dim_letters import noted
from autopar.ops.record.emit_context import function
from autopar.ops.record.op import Op, Sample, T, register
from autopar.ops.record.rule import broadcast

TARGET = "autopar.rows_from.default"
_LIBRARY: Any = torch.library.Library("autopar", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("rows_from(Tensor start, SymInt n, SymInt size) -> Tensor")


def _counting(rows: Tensor) -> Tensor:
    """Numbers of rows, which have no gradient. Raises TypeError for what counts nothing."""
    if rows.is_floating_point() or rows.is_complex():
        raise TypeError(f"rows are counted in whole numbers, not in {rows.dtype}")
    return rows


def _means(start: Tensor, n: int, size: int) -> Tensor:
    return _counting(start) + torch.arange(n, device=start.device)


_LIBRARY.impl("rows_from", _means, "CompositeExplicitAutograd")
torch.library.register_fake("autopar::rows_from", _means, lib=_LIBRARY)


_LIBRARY.define("within(Tensor index, SymInt size) -> Tensor")


def _same(index: Tensor, size: int) -> Tensor:
    return _counting(index).clone()


_LIBRARY.impl("within", _same, "CompositeExplicitAutograd")
torch.library.register_fake("autopar::within", _same, lib=_LIBRARY)


register(
    Op(
        "rows_from", (TARGET,), "-> [i]", noted("-> [i]"), function("rows_from", 3), work="memory", backward=0.0, saves="",
        samples=(Sample((T((), "index 3"), 4, 7)), Sample((T((), "index 1"), 4, 4))), means=_means,
    )
)  # fmt: skip


register(
    Op(
        "within", ("autopar.within.default",), "d* -> d*", broadcast, function("within", 2), work="memory", backward=0.0, saves="",
        samples=(Sample((T((4, 6), "index 5"), 5)),), means=_same,
    )
)  # fmt: skip
