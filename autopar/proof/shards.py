"""Tensors cut into the parts of ranks by their layouts, and put together again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import numpy as np
import torch

from autopar.ir.layout import Copied, Layouts, Partial, Replicate, Shard
from autopar.runtime import Axis

TOLERANCE = {torch.float32: 1e-4, torch.complex64: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-1}  # else 1e-12
_SPECIAL: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "not a number": torch.isnan,
    "infinity": lambda x: torch.where(x.isinf(), x, 0),
}
_Rows = np.ndarray[tuple[int], np.dtype[np.int64]]


def rows(extent: int, dim: int, layouts: Layouts, axes: tuple[Axis, ...]) -> _Rows:
    """Which rows of a dim this rank holds."""
    taken: dict[tuple[int, int], tuple[int, int]] = {}
    for layout, axis in zip(layouts, axes, strict=True):
        if isinstance(layout, Shard) and layout.dim == dim:
            factor = (layout.blocks, layout.unit)
            low, high = taken.get(factor, (0, extent // (layout.blocks * layout.unit)))
            bounds = axis.bounds(high - low)
            taken[factor] = low + bounds[axis.index], low + bounds[axis.index + 1]
    return _rows_taken(extent, tuple(taken.items()))


@functools.lru_cache(maxsize=4096)  # the same cuts of the same extents, tens of thousands of times in a proof
def _rows_taken(extent: int, taken: tuple[tuple[tuple[int, int], tuple[int, int]], ...]) -> _Rows:
    """The rows in ``low, high`` of every factor ``blocks, unit``. Not to be written to."""
    if len(taken) == 1 and taken[0][0] == (1, 1):
        return np.arange(*taken[0][1])
    place = np.arange(extent)
    kept = np.ones(extent, bool)
    for (blocks, unit), (low, high) in taken:
        at = place // unit % (extent // (blocks * unit))
        kept &= (at >= low) & (at < high)
    return place[kept]


def laid_out(tensor: torch.Tensor, layouts: Layouts, axes: tuple[Axis, ...], seed: int) -> torch.Tensor:
    """This rank's part of a tensor; a Partial one is cut into random addends, drawn alike by every rank."""
    for place, (layout, axis) in enumerate(zip(layouts, axes, strict=True)):
        if isinstance(layout, Partial):
            generator = torch.Generator().manual_seed(seed + 100 * place)
            shape = (axis.size - 1, *tensor.shape)
            drawn = torch.complex128 if tensor.is_complex() else torch.float64
            addends = torch.randn(shape, generator=generator, dtype=drawn).to(tensor.dtype)
            tensor = addends[axis.index] if axis.index < axis.size - 1 else tensor - addends.sum(0)
            seed += 10 * axis.index + 1
    cut = _cut_dims(layouts)
    for dim in cut:
        tensor = tensor.index_select(dim, torch.from_numpy(rows(tensor.shape[dim], dim, layouts, axes)))
    return tensor if cut else tensor.clone(memory_format=torch.contiguous_format)


def _cut_dims(layouts: Layouts) -> tuple[int, ...]:
    """The dims that some axis cuts, in order."""
    return tuple(sorted({layout.dim for layout in layouts if isinstance(layout, Shard)}))


def spread_out(part: torch.Tensor, shape: torch.Size, layouts: Layouts, axes: tuple[Axis, ...]) -> torch.Tensor:
    """The part in its place in the whole, zeros elsewhere."""
    held = {dim: rows(shape[dim], dim, layouts, axes) for dim in _cut_dims(layouts)}
    local = tuple(len(held[dim]) if dim in held else n for dim, n in enumerate(shape))
    assert part.shape == local, f"a part has shape {tuple(part.shape)}, not {local}"
    if not held:
        return part.clone()
    whole = torch.zeros(shape, dtype=part.dtype)
    if len(held) == 1:
        ((dim, places),) = held.items()
        return whole.index_copy_(dim, torch.from_numpy(places), part)
    whole[np.ix_(*(held.get(dim, range(n)) for dim, n in enumerate(shape)))] = part
    return whole


def tolerance(tensors: Iterable[torch.Tensor]) -> float:
    """How exactly what is computed of and into these can be compared: as their coarsest dtype allows."""
    return max((TOLERANCE.get(tensor.dtype, 1e-12) for tensor in tensors), default=1e-12)


def compare(
    what: str,
    parts: list[torch.Tensor],
    layouts: Layouts,
    shape: tuple[int, ...],
    expected: torch.Tensor,
    within: float = 1e-12,
) -> None:
    """Sum what is in parts or addends, take one of what is whole, having seen that all are equal; compare."""
    grid = torch.stack(parts).reshape((*shape, *expected.shape))
    for axis, layout in reversed(list(enumerate(layouts))):
        if isinstance(layout, Replicate | Copied):
            first = grid.narrow(axis, 0, 1)
            _close(f"{what}: copies differ", grid, first.expand_as(grid), within)
            grid = grid.select(axis, 0)
        else:
            grid = grid.sum(axis, dtype=grid.dtype) if grid.dtype != torch.bool else grid.any(axis)
    _close(what, grid, expected, within)


def _close(what: str, actual: torch.Tensor, expected: torch.Tensor, within: float) -> None:
    if torch.equal(actual, expected):
        return
    if not (expected.dtype.is_floating_point or expected.dtype.is_complex):
        assert torch.equal(actual, expected), what
    elif expected.numel():
        for kind, of in _SPECIAL.items():
            assert torch.equal(of(actual), of(expected)), f"{what}: {kind} elsewhere"
        actual, expected = (torch.where(x.isfinite(), x, 0) for x in (actual, expected))
        scale = max(1.0, float(expected.abs().max()))
        error = float((actual - expected).abs().max()) / scale
        assert error <= within, f"{what}: off by {error:g}"
