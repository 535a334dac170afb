"""Slices that begin where a tensor says, as capture makes of ``x[ptr : ptr + n]`` with a whole number ptr of a buffer.

rows_from    y[i] = ptr + i      an index for what reads or writes the rows; whole, as such an index is
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autopar.ops.op import Local, Op, Sample, T, register
from autopar.ops.rule import Call, Rule
from autopar.ops.text import invoke

TARGET = "autopar.rows_from.default"
_LIBRARY: Any = torch.library.Library("autopar", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("rows_from(Tensor start, SymInt n, SymInt size) -> Tensor")


def _means(start: Tensor, n: int, size: int) -> Tensor:
    return start + torch.arange(n, device=start.device)


_LIBRARY.impl("rows_from", _means, "CompositeExplicitAutograd")
torch.library.register_fake("autopar::rows_from", _means, lib=_LIBRARY)


def _rows_from(call: Call) -> Rule:
    (rows,) = call.results[0].shape
    return Rule(((),), ((("i",),),), {"i": rows}, frozenset({"i"}))


def _emit_rows_from(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    return invoke("rows_from", args)


register(
    Op(
        "rows_from", (TARGET,), "-> [i]", _rows_from, _emit_rows_from, work="memory", backward=0.0, saves="",
        samples=(Sample((T((), "index 3"), 4, 7)), Sample((T((), "index 1"), 4, 4))), means=_means,
    )
)  # fmt: skip
