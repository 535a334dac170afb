"""One conversion step as a call of its primitive, with local extents, blocks and units as expressions."""

from __future__ import annotations

from collections.abc import Sequence

from autopar.codegen.local_extents import LocalShard, Split, around, splits_of
from autopar.costmodel.redistribution import Conversion
from autopar.ir.conversions import PRIMITIVES
from autopar.ir.layout import Layouts, Shard
from autopar.ops.record.printing import Expr


def conversion_text(step: Conversion, x: Expr, shape: tuple[int, ...], axes: Sequence[str]) -> str:
    """The call: ``gather(x, 1, MODEL, 4096)``."""
    axis, row = axes[step.axis], PRIMITIVES[step.primitive]
    if row.cuts:
        shard, local = _local(step.after, step.axis, shape, axes)
        return f"{step.primitive}({x}, {shard.dim}, {axis}{_reading(local)})"
    if row.joins:
        shard, local = _local(step.before, step.axis, shape, axes)
        return f"{step.primitive}({x}, {shard.dim}, {axis}, {local.extent}{_reading(local)})"
    if step.primitive == "all_to_all":
        source, here = _local(step.before, step.axis, shape, axes)
        target, there = _local(step.after, step.axis, shape, axes)
        shards = f"Shard({source.dim}{_reading(here)}), Shard({target.dim}{_reading(there)})"
        return f"all_to_all({x}, {axis}, {shards}, {here.extent})"
    return f"{step.primitive}({x}, {axis})"


def _local(layouts: Layouts, axis: int, shape: tuple[int, ...], axes: Sequence[str]) -> tuple[Shard, LocalShard]:
    """How the axis cuts the tensor, and what its primitive is told of that dim."""
    shard = layouts[axis]
    assert isinstance(shard, Shard)
    others = splits_of(layouts, shard.dim, axes, without=axis)
    return shard, around(shape[shard.dim], others, Split(axes[axis], shard.blocks, shard.unit))


def _reading(local: LocalShard) -> str:
    parts = [f", {name}={text}" for name, text in (("blocks", local.blocks), ("unit", local.unit)) if text != "1"]
    return "".join(parts)
