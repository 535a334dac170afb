"""Interpolation of tensors whose spatial dims are split: a sum over a few operand rows, each with a weight.

Resizing n rows to m is, along one dim, ``y_j = sum_t w_tj x[r_tj]`` with taps t. With scale g = n / m (or 1 / scale
factor, where one is given), and g = (n - 1) / (m - 1), q = g j where corners are aligned:

    nearest         r = floor(g j)                                        nearest-exact   r = floor(g (j + 1/2))
    linear          q = max(0, g (j + 1/2) - 1/2), r = floor(q) and the next, weights 1 - (q - r) and q - r; q = j if m = n
    cubic           q = g (j + 1/2) - 1/2, r from floor(q) - 1 to floor(q) + 2, Keys' weights with a = -3/4
    area            r from floor(j n / m) to ceil((j + 1) n / m) - 1, equal weights

with r clamped to [0, n). Rows of the result need an interval of rows, which are fetched; then the taps are applied to
the split dims, and torch's operator to the others (the modes are separable). The places q are computed in the type
in which torch computes them, and the nearest rows are torch's own, so that both pick the same.
"""

# ruff: noqa: D102  (described once, in `ReceptiveField` and `WindowLayer`)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from autopar.errors import ConfigError, refusal
from autopar.runtime.grid.exchange_plan import Interval
from autopar.runtime.windowed.fused_halo import Over, wide
from autopar.runtime.windowed.window_layers import Block, WindowLayer

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_KIND = {"linear": "linear", "bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}
_CUBIC = -0.75  # torch's choice of Keys' parameter


@dataclass(frozen=True, slots=True)
class Resize:
    """How one dim is resized: `kind` is nearest, nearest-exact, linear, cubic or area; `factor` is 0 if not given."""

    kind: str
    result: int
    factor: float
    align: bool
    double: bool  # whether torch computes in float64

    def extent(self, n: int) -> int:
        return self.result

    def reads(self, n: int, rows: Interval) -> Interval:
        taps = _taps(self, n)[0]
        return int(taps[:, rows[0]].min()), int(taps[:, rows[1] - 1].max()) + 1

    def margins(self, n: int) -> Interval:
        return 0, 0


@dataclass(frozen=True, slots=True)
class Interpolate(WindowLayer):
    """`torch.nn.functional.interpolate` to `size`, or by `scale_factor`: one number per spatial dim.

    `kind` is torch's mode. `dtype` is that of the operand: torch rounds the places it reads at in that type.
    """

    size: Sequence[int] | None = None
    scale_factor: Sequence[float] | None = None
    kind: str = "nearest"
    align_corners: bool | None = None
    dtype: torch.dtype = torch.float32

    @property
    def spatial(self) -> int:
        return len(self.scale_factor if self.size is None else self.size)  # type: ignore[arg-type]  # one is given

    def reach(self, i: int, extent: int) -> Resize:
        factor = float(self.scale_factor[i]) if self.scale_factor is not None else 0.0
        result = int(extent * factor) if self.size is None else self.size[i]
        kind = _KIND.get(self.kind, self.kind)
        factor = 0.0 if kind == "area" else factor
        return Resize(kind, result, factor, bool(self.align_corners), self.dtype == torch.float64)

    def run(self, x: Tensor, blocks: Sequence[Block]) -> Tensor:
        first = x.dim() - self.spatial
        for i, block in enumerate(blocks):
            if block.ready:
                x = _resized(x, first + i, self.reach(i, block.extent), block)
        if all(block.ready for block in blocks):
            return x
        ready = [block.ready for block in blocks]
        if self.size is not None:
            size = [x.shape[first + i] if ready[i] else self.size[i] for i in range(self.spatial)]
            return F.interpolate(x, size, mode=self.kind, align_corners=self.align_corners)
        assert self.scale_factor is not None
        factors = [1.0 if done else factor for done, factor in zip(ready, self.scale_factor, strict=True)]
        return F.interpolate(x, scale_factor=factors, mode=self.kind, align_corners=self.align_corners)


def interpolate(
    x: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    over: Over | None = None,
) -> Tensor:
    """`torch.nn.functional.interpolate` of ``x`` [batch, channel, *space], whose spatial dims in `over` are split.

    `size` is that of the whole result. Modes: nearest, nearest-exact, linear, bilinear, trilinear, bicubic, area.
    Raises ConfigError for another mode, or unless one of `size` and `scale_factor` is given.
    """
    spatial = x.dim() - 2
    known = ("nearest", "nearest-exact", "area", _LINEAR.get(spatial, ""), "bicubic" if spatial == 2 else "")
    where = f"interpolate of a tensor of shape {tuple(x.shape)}"
    if mode not in known or not mode:
        rule = f"for {spatial} spatial dims the modes are {', '.join(name for name in known if name)}"
        raise ConfigError(refusal(where, f"mode {mode!r}", rule))
    if (size is None) == (scale_factor is None):
        raise ConfigError(refusal(where, f"size={size}, scale_factor={scale_factor}", "exactly one of them is given"))
    sizes = (size,) * spatial if isinstance(size, int) else size
    factors = (float(scale_factor),) * spatial if isinstance(scale_factor, int | float) else scale_factor
    if len(sizes or factors or ()) != spatial:
        problem = f"size={size}" if factors is None else f"scale_factor={scale_factor}"
        raise ConfigError(
            refusal(where, problem, f"there is one number for each of the {spatial} spatial dims, or one for all")
        )
    return wide(x, [Interpolate(sizes, factors, mode, align_corners, x.dtype)], over)


def _resized(x: Tensor, dim: int, resize: Resize, block: Block) -> Tensor:
    """The block's rows of `dim`, of which `x` holds the rows that they read."""
    taps, weights = _taps(resize, block.extent)
    start = resize.reads(block.extent, block.rows)[0]
    mine = slice(*block.rows)
    rows = [(tap[mine] - start).to(x.device) for tap in taps]
    if resize.kind.startswith("nearest"):
        return x.index_select(dim, rows[0])
    shape = (-1, *[1] * (x.dim() - 1 - dim))
    wider = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    total = wider.index_select(dim, rows[0]) * weights[0, mine].to(wider).view(shape)
    for tap, weight in zip(rows[1:], weights[1:], strict=True):
        part = wider.index_select(dim, tap) * weight[mine].to(wider).view(shape)
        if resize.kind == "area":  # a row that is no tap of this result counts nothing, be it infinite
            part = part.masked_fill((weight[mine] == 0).to(part.device).view(shape), 0)
        total = total + part
    return total.to(x.dtype)


@lru_cache(maxsize=256)
def _taps(resize: Resize, n: int) -> tuple[Tensor, Tensor]:
    """Rows and weights, both [taps, result rows]."""
    dtype = torch.float64 if resize.double else torch.float32
    j = torch.arange(resize.result, dtype=dtype)
    if resize.kind.startswith("nearest"):
        taps = _nearest(resize, n, dtype)
        return taps[None], torch.ones_like(j)[None]
    if resize.kind == "area":
        return _area(resize.result, n, dtype)
    q = _source(resize, n, j)
    low = q.floor() if resize.kind == "cubic" else q.floor().clamp(max=n - 1)
    t = (q - low).clamp(0, 1)
    offsets = torch.arange(-1, 3) if resize.kind == "cubic" else torch.arange(2)
    taps = (low.long() + offsets[:, None]).clamp(0, n - 1)
    return taps, _keys(t) if resize.kind == "cubic" else torch.stack([1 - t, t])


def _nearest(resize: Resize, n: int, dtype: torch.dtype) -> Tensor:
    """torch itself is asked which rows it takes."""
    rows = torch.arange(n, dtype=dtype).view(1, 1, n)
    if resize.factor:
        return F.interpolate(rows, scale_factor=resize.factor, mode=resize.kind).view(-1).long()
    return F.interpolate(rows, resize.result, mode=resize.kind).view(-1).long()


def _source(resize: Resize, n: int, j: Tensor) -> Tensor:
    """q of every result row."""
    m = resize.result
    unit = torch.ones((), dtype=j.dtype)
    if resize.kind == "linear" and m == n:  # torch then copies, whatever the factor
        return j
    if resize.align:
        return j * (unit * (n - 1) / (m - 1) if m > 1 else unit * 0)
    g = unit / resize.factor if resize.factor else unit * n / m
    q = g * (j + 0.5) - 0.5
    return q if resize.kind == "cubic" else q.clamp(min=0)


def _keys(t: Tensor) -> Tensor:
    """Keys' cubic weights of the rows before, at, behind, and two behind the place t in [0, 1)."""
    a = _CUBIC

    def near(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return torch.stack([far(t + 1), near(t), near(1 - t), far(2 - t)])


def _area(m: int, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    j = torch.arange(m)
    start, stop = j * n // m, -(-(j + 1) * n // m)
    offsets = torch.arange(int((stop - start).max()))[:, None]
    taps = start + offsets
    weights = (taps < stop).to(dtype) / (stop - start)
    return torch.minimum(taps, stop - 1), weights
