"""Ranks that are not alike, as tables: where the axes are cut, what each rank takes and holds."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from autopar.cli.tables import milliseconds, show, table
from autopar.ir.units import bytes_text

if TYPE_CHECKING:
    from autopar.ir.grid import GridShape
    from autopar.ir.plan import Plan


def show_ranks(plan: Plan) -> None:
    """A row per rank; neighbours that are alike share one."""
    grid = plan.shape
    rows = [
        (
            _shares(grid, rank), f"{one.speed:g}", milliseconds(one.compute), milliseconds(one.update),
            bytes_text(one.peak), bytes_text(one.memory),
        )
        for rank, one in enumerate(plan.ranks)
    ]  # fmt: skip
    listing = table("ranks", "of each axis", "speed", "compute", "update", "peak", "memory", numbers=2)
    for cells, group in groupby(range(len(rows)), key=lambda rank: rows[rank]):
        ranks = list(group)
        listing.add_row(f"{ranks[0]}-{ranks[-1]}" if len(ranks) > 1 else str(ranks[0]), *cells)
    show(listing, title="ranks that are not alike, one step, predicted")


def _shares(grid: GridShape, rank: int) -> str:
    """What a rank has of each axis of more than one rank."""
    at = grid.seen_from(rank).at or ()
    parts = []
    for axis, (name, size) in enumerate(zip(grid.names, grid.sizes, strict=True)):
        if size > 1:
            widths = [high - low for low, high in pairwise(grid.cuts_of(axis))] or [1 / size] * size
            parts.append(f"{name} {widths[at[axis]]:.1%}")
    return ", ".join(parts)
