"""The matrix on which spatially split convolutions fail elsewhere: is each cell here what one process computes?

    python -m benchmarks.window_matrix [--worst] [--json]

Every setting (stride, dilation, even kernels, uneven extents, batches, groups, padding modes) on every grid, in
float64 on simulated ranks, written by hand as a user would: the operand split, the weight copied over the axes that
split it, nothing said about an axis that is not used. Printed are the largest differences from torch's result and
gradients on the whole tensor, relative to the largest number there. `--worst` prints one line per setting, for all
grids.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autopar.runtime import Axis, Grid, conv, conv_transpose, copy, simulate

LIMIT = 1e-12
Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Setting:
    """A convolution of ``shape`` [batch, channels, *space]; transposed where `output_padding` is given."""

    name: str
    shape: Numbers
    kernel: Numbers
    result_channels: int = 4
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    mode: str = "zeros"
    output_padding: int | None = None


@dataclass(frozen=True)
class Layout:
    """A grid, and which spatial dims (numbers of the operand's dims) its axes split; None is an axis left unused."""

    grid: str
    dims: tuple[int | None, ...]

    def __str__(self) -> str:
        names = {None: "-", 2: "h", 3: "w", 4: "d"}
        return f"{self.grid} ({', '.join(names[dim] for dim in self.dims)})"


@dataclass(frozen=True)
class Cell:
    """Relative errors of one setting on one grid."""

    setting: str
    grid: str
    value: float
    input_gradient: float
    weight_gradient: float

    @property
    def right(self) -> bool:
        return max(self.value, self.input_gradient, self.weight_gradient) <= LIMIT


SETTINGS = (
    Setting("kernel 3, padding 1", (1, 2, 12, 8), (3, 3), padding=1),
    Setting("no padding", (1, 2, 12, 8), (3, 3)),
    Setting("batch of 3", (3, 2, 12, 8), (3, 3), padding=1),
    Setting("stride 2", (1, 2, 12, 8), (3, 3), stride=2, padding=1),
    Setting("stride 2, uneven extents", (2, 2, 13, 7), (3, 3), stride=2, padding=1),
    Setting("stride 3, kernel 2: rows that nobody reads", (2, 2, 14, 11), (2, 2), stride=3),
    Setting("dilation 2", (2, 2, 12, 9), (3, 3), padding=2, dilation=2),
    Setting("dilation 3, kernel 5: beyond the neighbour", (1, 2, 17, 14), (5, 5), padding=2, dilation=3),
    Setting("stride 2 and dilation 2", (2, 2, 13, 11), (3, 3), stride=2, padding=2, dilation=2),
    Setting("even kernel 2", (2, 2, 12, 9), (2, 2)),
    Setting("even kernel 4, padding 1", (2, 2, 13, 9), (4, 4), padding=1),
    Setting("even kernel 4, stride 2, padding 1", (2, 2, 13, 10), (4, 4), stride=2, padding=1),
    Setting("kernel 3 x 5", (2, 2, 11, 10), (3, 5), padding=1),
    Setting("uneven extents", (2, 2, 11, 7), (3, 3), padding=1),
    Setting("fewer rows than ranks", (2, 2, 3, 3), (3, 3), padding=1),
    Setting("groups 2", (2, 4, 12, 9), (3, 3), padding=1, groups=2),
    Setting("depthwise, stride 2", (2, 4, 13, 9), (3, 3), stride=2, padding=1, groups=4),
    Setting("ResNet's stem: kernel 7, stride 2, padding 3", (2, 3, 17, 14), (7, 7), stride=2, padding=3),
    Setting("DistDL's 6 x 10, kernel 5, stride 4, padding 2", (1, 1, 6, 10), (5, 5), stride=4, padding=2),
    Setting("reflecting padding", (2, 2, 11, 7), (5, 5), padding=2, mode="reflect"),
    Setting("replicating padding", (2, 2, 11, 7), (5, 5), padding=3, mode="replicate"),
    Setting("circular padding", (2, 2, 11, 7), (5, 5), padding=2, mode="circular"),
    Setting("volume, stride 2", (2, 2, 9, 7, 6), (3, 3, 3), stride=2, padding=1),
    Setting("transposed, kernel 2, stride 2", (2, 4, 7, 5), (2, 2), stride=2, output_padding=0),
    Setting("transposed, kernel 3, stride 2, padding 1", (2, 4, 7, 5), (3, 3), stride=2, padding=1, output_padding=1),
)
LAYOUTS = (
    Layout("2", (2,)),
    Layout("3", (2,)),
    Layout("4", (3,)),
    Layout("2x2", (2, 3)),
    Layout("2x2", (2, None)),
    Layout("2x2", (None, 3)),
    Layout("3x2", (3, 2)),
)


def cell(setting: Setting, layout: Layout) -> Cell:
    """One setting on one grid, on simulated ranks."""
    x, weight = random(*setting.shape, seed=1), random(*_weight_shape(setting), seed=2)
    wanted, dy, dx, dw = _whole(setting, x, weight)

    def rank_main() -> list[float]:
        axes = Grid(layout.grid).axes
        split = {dim: axis for dim, axis in zip(layout.dims, axes, strict=True) if dim is not None}
        mine, own = _part(x, split).clone().requires_grad_(), weight.clone().requires_grad_()
        y = _by_hand(setting, mine, own, split)
        grads = torch.autograd.grad(y, (mine, own), _part(dy, split))
        pairs = ((y.detach(), _part(wanted, split)), (grads[0], _part(dx, split)), (grads[1], dw))
        return [_difference(*pair) for pair in pairs]

    found = simulate(math.prod(int(one) for one in layout.grid.split("x")), rank_main)
    scales = [float(one.abs().max()) for one in (wanted, dx, dw)]
    worst = [max(column) / scale for column, scale in zip(zip(*found, strict=True), scales, strict=True)]
    return Cell(setting.name, str(layout), *worst)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _by_hand(setting: Setting, x: Tensor, weight: Tensor, split: dict[int, Axis]) -> Tensor:
    """The distributed program: what a user writes for this layout."""
    for axis in split.values():
        weight = copy(weight, axis)  # adjoint: the sum over the axis
    over = {dim: (axis, setting.shape[dim]) for dim, axis in split.items()}
    s = setting
    if s.output_padding is None:
        return conv(x, weight, None, s.stride, s.padding, s.dilation, s.groups, over=over, mode=s.mode)
    return conv_transpose(x, weight, None, s.stride, s.padding, s.output_padding, s.groups, s.dilation, over=over)


def _whole(s: Setting, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Result, cotangent, and gradients of operand and weight, in one process."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    i = len(s.kernel) - 2
    if s.output_padding is None:
        mode = "constant" if s.mode == "zeros" else s.mode
        wide = F.pad(x, [s.padding] * (2 * len(s.kernel)), mode)
        y = (F.conv2d, F.conv3d)[i](wide, weight, None, s.stride, 0, s.dilation, s.groups)
    else:
        function = (F.conv_transpose2d, F.conv_transpose3d)[i]
        y = function(x, weight, None, s.stride, s.padding, s.output_padding, s.groups, s.dilation)
    dy = random(*y.shape, seed=3)
    dx, dw = torch.autograd.grad(y, (x, weight), dy)
    return y.detach(), dy, dx, dw


def _weight_shape(s: Setting) -> Numbers:
    if s.output_padding is None:
        return (s.result_channels, s.shape[1] // s.groups, *s.kernel)
    return (s.shape[1], s.result_channels // s.groups, *s.kernel)


def _part(whole: Tensor, split: dict[int, Axis]) -> Tensor:
    for dim, axis in split.items():
        low, high = axis.bounds(whole.shape[dim])[axis.index : axis.index + 2]
        whole = whole.narrow(dim, low, high - low)
    return whole


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference; infinite for another shape."""
    if ours.shape != theirs.shape:
        return math.inf
    return float((ours - theirs).abs().max()) if ours.numel() else 0.0


def table(cells: Sequence[Cell]) -> str:
    """Markdown, a line per cell."""
    lines = ["| setting | grid | value | input gradient | weight gradient | verdict |", "|---|---|---|---|---|---|"]
    for entry in cells:
        errors = " | ".join(f"{e:.1e}" for e in (entry.value, entry.input_gradient, entry.weight_gradient))
        lines.append(f"| {entry.setting} | {entry.grid} | {errors} | {'equal' if entry.right else 'WRONG'} |")
    return "\n".join(lines)


def worst(cells: Sequence[Cell]) -> list[Cell]:
    """One cell per setting: the largest errors over all grids."""
    rows = []
    for name in dict.fromkeys(entry.setting for entry in cells):
        mine = [entry for entry in cells if entry.setting == name]
        errors = (
            max(getattr(entry, what) for entry in mine) for what in ("value", "input_gradient", "weight_gradient")
        )
        rows.append(Cell(name, f"all {len(mine)}", *errors))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--worst", action="store_true", help="one line per setting, the worst of all grids")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cells = [cell(setting, layout) for setting in SETTINGS for layout in LAYOUTS]
    shown = worst(cells) if options.worst else cells
    print(json.dumps([asdict(entry) for entry in shown]) if options.json else table(shown))
    if not options.json:
        print(
            f"\n{sum(entry.right for entry in cells)} of {len(cells)} cells equal the sequential result to {LIMIT:g}."
        )


if __name__ == "__main__":
    main()
