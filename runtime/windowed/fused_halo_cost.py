"""Whether one wide exchange for a run of layers is cheaper than an exchange before each.

Along one split dim, let rank r receive a_l messages with b_l bytes before layer l, if every layer has an exchange of
its own, and a messages with b bytes in one wide exchange; and let it then make e_l rows of the result of layer l
beyond its own. A message takes alpha seconds and a byte beta, forward and again in the adjoint; a row of layer l takes
c_l seconds, forward and backward together. The step waits for the slowest rank, so that one exchange saves

    max_r sum_l 2 (alpha a_l + beta b_l)  -  max_r [2 (alpha a + beta b) + sum_l c_l e_l]
"""

from __future__ import annotations

from collections.abc import Sequence

from autopar.runtime.grid.exchange_plan import plan_exchange, rows_in
from autopar.runtime.grid.grid import Axis
from autopar.runtime.windowed.fused_halo import routes_of
from autopar.runtime.windowed.window_layers import WindowLayer


def wide_saves(
    layers: Sequence[WindowLayer],
    spatial_dim: int,
    axis: Axis,
    extent: int,
    row_bytes: Sequence[float],
    row_seconds: Sequence[float],
    alpha: float,
    beta: float,
) -> float:
    """Seconds that one wide exchange saves per step over one exchange per layer; negative where it loses.

    `row_bytes` are the bytes of one operand row of every layer, `row_seconds` the seconds that one result row of it
    takes forward and backward, both on one rank.
    """
    extents = [extent]
    for layer in layers:
        extents.append(layer.reach(spatial_dim, extents[-1]).extent(extents[-1]))
    apart = [0.0] * axis.size
    for at, layer in enumerate(layers):
        single = _received([layer], spatial_dim, axis, extents[at], row_bytes[at], alpha, beta)
        apart = [total + 2 * seconds for total, seconds in zip(apart, single, strict=True)]
    wide = [2 * seconds for seconds in _received(layers, spatial_dim, axis, extent, row_bytes[0], alpha, beta)]
    for rank, steps in enumerate(routes_of(layers, spatial_dim, axis, extent).steps):
        for step, m, seconds in zip(steps, extents[1:], row_seconds, strict=True):
            bounds = axis.bounds(m)
            wide[rank] += seconds * (step.result[1] - step.result[0] - (bounds[rank + 1] - bounds[rank]))
    return max(apart) - max(wide)


def _received(
    layers: Sequence[WindowLayer], i: int, axis: Axis, extent: int, row_bytes: float, alpha: float, beta: float
) -> list[float]:
    """Seconds that every rank's receipts take in the one exchange before these layers."""
    windows = routes_of(layers, i, axis, extent).fetched
    seconds = []
    for rank in range(axis.size):
        recvs = plan_exchange(rank, axis.bounds(extent), windows).recvs
        rows = sum(rows_in(runs) for _, runs in recvs)
        seconds.append(alpha * len(recvs) + beta * row_bytes * rows)
    return seconds
