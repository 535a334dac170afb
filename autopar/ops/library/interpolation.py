"""Resizing of space: interpolation, shuffles of pixels, sampling at given points, sliding windows unfolded.

Only interpolation has a distributed form, an exchange of the rows around a rank's own (`autopar.runtime.windowed.interpolation`).

    upsample_bilinear2d   n c h~ w~ -> n c h~ w~                     a result row reads a few rows around its place
    pixel_shuffle         n (c [r] [s]) h w -> n c (h [r]) (w [s])
    grid_sampler          n c [h] [w], n y x [p] -> n c y x          every point by itself, the image whole
    im2col, col2im        n c [h] [w] <-> n (c [k]) [l]
"""

from __future__ import annotations

import math
from dataclasses import replace

from autopar.ops.record.dim_letters import lettered, named
from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Op, Sample, T, memory, register
from autopar.ops.record.printing import invoke
from autopar.ops.record.rule import Call, Dims, Rule, Window, letters, with_linear
from autopar.ops.record.windows import SPATIAL, collapse, marks, spread, with_whole_space, with_windows

_MODES = {"nearest": "nearest", "nearest_exact": "nearest-exact", "bicubic": "bicubic"}


def _mode(call: Call) -> str:
    """torch's word for the mode: ``aten.upsample_bilinear2d.vec`` is ``"bilinear"``."""
    name = call.function.lstrip("_").removeprefix("upsample_").removesuffix("_aa")
    return _MODES.get(name[:-2], name[:-2])


def _smoothed(call: Call) -> bool:
    return "_aa." in call.node.target


def _aligned(call: Call) -> bool:
    return "nearest" not in call.node.target and bool(call.arg(2, "align_corners", False))


def _scales(call: Call) -> tuple[float, ...] | None:
    """The scale factors where the call gives them. Raises ValueError where torch would need both them and the size."""
    factors = call.arg(2 if "nearest" in call.node.target else 3, "scale_factors")
    if not isinstance(factors, tuple):
        return None
    return tuple(float(factor) for factor in factors if isinstance(factor, int | float))


def _reach(mode: str, n: int, m: int, scale: float, align: bool) -> Window:
    """Which operand rows a result row reads: see `autopar.runtime.windowed.interpolation`."""
    stride = 1 / scale if scale else n / m
    if mode == "nearest":
        return Window(1, stride)
    if mode == "nearest-exact":
        return Window(1, stride, -stride / 2)
    taps, before = (4, 1) if mode == "bicubic" else (2, 0)
    if align:
        return Window(taps, (n - 1) / max(m - 1, 1), before)
    return Window(taps, stride, before + 0.5 - stride / 2)


def _upsample(call: Call) -> Rule:
    """Batch and channels are free, spatial letters windowed; torch smooths whole images only."""
    before, after = (value.shape[2:] for value in (call.operands[0], call.results[0]))
    names = SPATIAL[len(after)]
    space = marks(names)
    rule = replace(with_linear(letters(f"n c {space} -> n c {space}", call), {0}), filled=frozenset("c"))
    if _smoothed(call):
        return with_whole_space(rule, names)
    scales = _scales(call) or (0.0,) * len(after)
    sizes = zip(before, after, scales, strict=True)
    return with_windows(rule, [_reach(_mode(call), *size, _aligned(call)) for size in sizes], names)


def _emit_upsample(ctx: EmitContext) -> str:
    mode, scales, spaces = _mode(ctx.call), _scales(ctx.call), ctx.windows()
    size = collapse(ctx.call.results[0].shape[2:]) if scales is None else None
    nearest = mode.startswith("nearest")
    options = [
        ("scale_factor", (scales[0] if len(set(scales)) == 1 else scales) if scales else None, None),
        ("mode", mode, "nearest"),
        ("align_corners", None if nearest else _aligned(ctx.call), None),
        ("antialias", _smoothed(ctx.call), False),
    ]
    name = "interpolate" if spaces else "F.interpolate"
    return invoke(name, (ctx.args[0], size), [*options, ("over", spaces, None)])


def _upsample_flops(call: Call, rule: Rule) -> float:
    """A product and a sum per tap."""
    taps = {"nearest": 1, "nearest-exact": 1, "bicubic": 4}.get(_mode(call), 2)
    return 2.0 * call.results[0].numel * float(taps) ** (len(call.results[0].shape) - 2)


register(
    Op(
        name="interpolate",
        targets=(
            "aten.upsample_bilinear2d.vec",
            "aten.upsample_linear1d.vec",
            "aten.upsample_trilinear3d.vec",
            "aten.upsample_bicubic2d.vec",
            *(f"aten.upsample_nearest{n}d.vec" for n in (1, 2, 3)),
            *(f"aten._upsample_nearest_exact{n}d.vec" for n in (1, 2, 3)),
            "aten._upsample_bilinear2d_aa.vec",
            "aten._upsample_bicubic2d_aa.vec",
        ),
        note="n c h~ w~ -> n c h~ w~",
        rule=_upsample,
        emit=_emit_upsample,
        work="reduce",
        flops=_upsample_flops,
        saves="",
        samples=(
            Sample((T((2, 2, 5, 4)), (8, 8), False, None)),
            Sample((T((2, 2, 3, 4)), (7, 3), True, None)),
            Sample((T((1, 2, 6, 4)), None, False, (1.5, 2.0))),
            Sample((T((2, 2, 5)), None, False, (2.0,)), target="aten.upsample_linear1d.vec"),
            Sample((T((1, 1, 3, 4, 2)), None, False, (2.0, 2.0, 2.0)), target="aten.upsample_trilinear3d.vec"),
            Sample((T((2, 1, 5, 6)), None, False, (2.0, 1.5)), target="aten.upsample_bicubic2d.vec"),
            Sample((T((2, 3, 5, 6)), None, (2.0, 1.5)), target="aten.upsample_nearest2d.vec"),
            Sample((T((2, 3, 7)), (4,), None), target="aten.upsample_nearest1d.vec"),
            Sample((T((2, 3, 7)), (4,), None), target="aten._upsample_nearest_exact1d.vec"),
            Sample((T((1, 2, 3, 4, 2)), (6, 3, 4), None), target="aten.upsample_nearest3d.vec"),
            Sample((T((1, 2, 3, 4, 2)), (6, 3, 4), None), target="aten._upsample_nearest_exact3d.vec"),
            Sample((T((2, 2, 3, 5)), (5, 4), None), target="aten._upsample_nearest_exact2d.vec"),
            Sample((T((2, 2, 6, 5)), (3, 4), False, None), target="aten._upsample_bilinear2d_aa.vec"),
            Sample((T((2, 2, 6, 5)), (3, 4), False, None), target="aten._upsample_bicubic2d_aa.vec"),
        ),
    )
)


def _shuffle(call: Call) -> Rule:
    """Channels become pixels, or the other way round: the same letters, differently gathered."""
    factor = call.node.args[1]
    assert isinstance(factor, int)
    back = "unshuffle" in call.node.target
    (small,) = (value.shape for value in (call.results if back else call.operands))
    lead = named(small[:-3], prefix="b")
    together: Dims = (*lead, ("c", "r", "s"), ("h",), ("w",))
    apart: Dims = (*lead, ("c",), ("h", "r"), ("w", "s"))
    operand, result = (apart, together) if back else (together, apart)
    more = {"c": small[-3] // factor**2, "r": factor, "s": factor, "h": small[-2], "w": small[-1]}
    rule = lettered(call, [operand], [result], "rs", more)
    filled = frozenset(
        {*(name for (name,) in lead), "c", "h", "w"}
    )  # torch's backward misreads tensors without elements
    return with_linear(replace(rule, filled=filled), {0})


def _emit_shuffle(ctx: EmitContext) -> str:
    return invoke(f"F.{ctx.call.function}", ctx.args[:2])


memory(
    "pixel_shuffle",
    ("aten.pixel_shuffle.default", "aten.pixel_unshuffle.default"),
    "n (c [r] [s]) h w -> n c (h [r]) (w [s])",
    _shuffle,
    _emit_shuffle,
    Sample((T((2, 8, 3, 4)), 2)),
    Sample((T((2, 3, 4, 6)), 2), target="aten.pixel_unshuffle.default"),
    Sample((T((18, 2, 2)), 3)),
)


def _grid_sampler(call: Call) -> Rule:
    """The points are free; each may lie anywhere in the image."""
    n = len(call.operands[0].shape) - 2
    image = " ".join(f"[{name}]" for name in SPATIAL[n])
    points = " ".join(("z", "y", "x")[-n:])
    rule = letters(f"n c {image}, n {points} [p] -> n c {points}", call)
    return replace(with_linear(rule, {0}), filled=frozenset("nc"))


def _emit_grid_sampler(ctx: EmitContext) -> str:
    mode = ("bilinear", "nearest", "bicubic")[ctx.pick(2, "interpolation_mode", 0)]
    border = ("zeros", "border", "reflection")[ctx.pick(3, "padding_mode", 0)]
    align = bool(ctx.pick(4, "align_corners", False))
    options = [("mode", mode, "bilinear"), ("padding_mode", border, "zeros"), ("align_corners", align, None)]
    return invoke("F.grid_sample", ctx.args[:2], options)


register(
    Op(
        name="grid_sample",
        targets=("aten.grid_sampler.default",),
        note="n c [h] [w], n y x [p] -> n c y x",
        rule=_grid_sampler,
        emit=_emit_grid_sampler,
        work="reduce",
        flops=lambda call, rule: 8.0 * call.results[0].numel,
        samples=(
            Sample((T((2, 4, 3, 4)), T((2, 3, 4, 2), "unit"), 0, 0, False)),
            Sample((T((2, 2, 3, 4, 3)), T((2, 2, 3, 2, 3)), 1, 1, True)),
        ),
    )
)


def _unfold(call: Call) -> Rule:
    """Windows as rows of ``c * kernel`` numbers: batch and channels are free, places are whole."""
    kernel = call.node.args[1 if "im2col" in call.node.target else 2]
    assert isinstance(kernel, tuple)
    k = math.prod(n for n in kernel if isinstance(n, int))
    back = "col2im" in call.node.target
    (columns,) = call.operands if back else call.results
    lead = named(columns.shape[:-2], prefix="b")
    wide: Dims = (*lead, ("c", "k"), ("l",))
    plane: Dims = (*lead, ("c",), ("h",), ("w",))
    operand, result = (wide, plane) if back else (plane, wide)
    rule = lettered(call, [operand], [result], "khwl", {"k": k})
    return with_linear(replace(rule, filled=frozenset("c")), {0})


def _emit_unfold(ctx: EmitContext) -> str:
    back = "col2im" in ctx.call.node.target
    first = 3 if back else 2
    table = (("dilation", 1), ("padding", 0), ("stride", 1))
    options = [
        (name, collapse(spread(ctx.pick(first + i, name), 2, default)), default)
        for i, (name, default) in enumerate(table)
    ]
    sizes = [size if back and i == 0 else collapse(size) for i, size in enumerate(ctx.args[1:first])]
    return invoke("F.fold" if back else "F.unfold", (ctx.args[0], *sizes), options)


memory(
    "unfold",
    ("aten.im2col.default", "aten.col2im.default"),
    "n c [h] [w] -> n (c [k]) [l]",
    _unfold,
    _emit_unfold,
    Sample((T((2, 4, 5, 4)), (2, 3), (1, 1), (1, 0), (2, 1))),
    Sample((T((2, 16, 9)), (4, 4), (2, 2), (1, 1), (0, 0), (1, 1)), target="aten.col2im.default"),
)
