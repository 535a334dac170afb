"""Poolings: windows over spatial letters, no sum over channels.

The places of maxima are counted in the whole plane: where they are read, space is whole. An adaptive pooling chooses its
windows by the extents. Along a dim that becomes one row, an adaptive average is a mean over all rows, a sum over a
letter like any other; along others it is an interpolation (mode area). An adaptive maximum is a pooling where
the extents divide; otherwise its space is whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from autopar.ops.record.emit_context import EmitContext, overload
from autopar.ops.record.op import Op, Sample, T, memory, register
from autopar.ops.record.printing import Expr, atom, invoke, literal
from autopar.ops.record.rule import Call, Rule, Window, letters, with_linear
from autopar.ops.record.windows import SPATIAL, batch, collapse, marks, spread, with_whole_space, with_windows


@dataclass(frozen=True, slots=True)
class _Pool:
    """The literal arguments of a pooling."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool
    count_padding: bool
    divisor: object

    @property
    def ndim(self) -> int:
        return len(self.kernel)


def _ndim(call: Call) -> int:
    """Number of spatial dims: the digit in the target's name."""
    return next(int(letter) for letter in call.node.target if letter.isdigit())


def _pool(call: Call) -> _Pool:
    n = _ndim(call)
    kernel = spread(call.arg(1, "kernel_size"), n, 1)
    stride = spread(call.arg(2, "stride") or kernel, n, 1)
    padding = spread(call.arg(3, "padding"), n, 0)
    if "max" in call.node.target:
        dilation, ceil = spread(call.arg(4, "dilation"), n, 1), bool(call.arg(5, "ceil_mode", False))
        return _Pool(kernel, stride, padding, dilation, ceil, True, None)
    ceil, count = bool(call.arg(4, "ceil_mode", False)), bool(call.arg(5, "count_include_pad", True))
    return _Pool(kernel, stride, padding, (1,) * n, ceil, count, call.arg(6, "divisor_override"))


def _rule(call: Call) -> Rule:
    """n and c are free; spatial letters are windowed, or frozen where the places of the maxima are read."""
    pool = _pool(call)
    names = SPATIAL[pool.ndim]
    sizes = zip(pool.kernel, pool.stride, pool.padding, pool.dilation, strict=True)
    windows = [Window(*size) for size in sizes]
    lead = batch(call, names)
    space = marks(names)
    results = ", ".join(f"{lead}c {space}" for _ in call.results)
    rule = with_windows(letters(f"{lead}c {space} -> {results}", call), windows, names)
    rule = replace(rule, filled=frozenset("c"))
    rule = with_whole_space(rule, names) if _places_read(call) else rule
    return rule if "max" in call.node.target else with_linear(rule, {0})


def _places_read(call: Call) -> bool:
    """Whether somebody reads the places of the maxima: flat indices into the whole plane."""
    return len(call.results) > 1 and bool(call.results[1].name)


def _emit(ctx: EmitContext) -> str:
    pool = _pool(ctx.call)
    kind = "max" if "max" in ctx.call.node.target else "avg"
    indices = _places_read(ctx.call)
    listed = [
        ("stride", collapse(pool.stride), collapse(pool.kernel)),
        ("padding", collapse(pool.padding), 0),
        ("dilation", collapse(pool.dilation), 1),
        ("count_include_pad", pool.count_padding, True),
        ("ceil_mode", pool.ceil_mode, False),
        ("divisor_override", pool.divisor, None),
        ("return_indices", indices, False),
    ]
    spaces = ctx.windows()
    if spaces:
        text = invoke(f"{kind}_pool", (ctx.args[0], pool.kernel), [*listed, ("over", spaces, None)])
    else:
        text = invoke(f"F.{kind}_pool{pool.ndim}d", (ctx.args[0], collapse(pool.kernel)), listed)
    return text if len(ctx.call.results) == 1 or indices else f"({text}, None)"


def _flops(call: Call, rule: Rule) -> float:
    """One operation per row of a window."""
    return float(call.results[0].numel * math.prod(_pool(call).kernel))


register(
    Op(
        name="max_pool",
        targets=(
            "aten.max_pool2d.default",
            "aten.max_pool1d.default",
            "aten.max_pool3d.default",
            "aten.max_pool2d_with_indices.default",
            "aten.max_pool3d_with_indices.default",
        ),
        note="n c h~ w~ -> n c h~ w~",
        rule=_rule,
        emit=_emit,
        work="reduce",
        flops=_flops,
        samples=(
            Sample((T((2, 4, 7, 6)), (3, 3), (2, 2), (1, 1))),
            Sample((T((2, 4, 8, 6)), (2, 2))),
            Sample((T((2, 4, 7, 5)), (2, 2), (2, 2), (0, 0), (1, 1), True)),
            Sample((T((2, 3, 8, 6)), (3, 2), (3, 3), (1, 1), (1, 1), True)),
            Sample((T((2, 3, 9)), (3,), (1,), (1,), (2,)), target="aten.max_pool1d.default"),
            Sample((T((1, 2, 4, 5, 4)), (2, 2, 2)), target="aten.max_pool3d.default"),
            Sample((T((2, 4, 6, 6)), (2, 2)), target="aten.max_pool2d_with_indices.default"),
            Sample((T((1, 2, 4, 2, 5)), (2, 1, 2)), target="aten.max_pool3d_with_indices.default"),
        ),
    )
)
register(
    Op(
        name="avg_pool",
        targets=("aten.avg_pool2d.default", "aten.avg_pool1d.default", "aten.avg_pool3d.default"),
        note="n c h~ w~ -> n c h~ w~",
        rule=_rule,
        emit=_emit,
        work="reduce",
        flops=_flops,
        saves="",
        samples=(
            Sample((T((2, 4, 7, 6)), (3, 3), (2, 2), (1, 1))),
            Sample((T((2, 4, 7, 6)), (2, 2), (2, 2), (1, 1), False, False)),
            Sample((T((2, 3, 8, 5)), (3, 2), (3, 2), (1, 0), True)),
            Sample((T((2, 3, 7, 6)), (3, 3), (2, 2), (1, 1), True, False)),
            Sample((T((2, 3, 7, 6)), (2, 2), (2, 2), (0, 0), True, True, 3)),
            Sample((T((2, 3, 8)), (2,)), target="aten.avg_pool1d.default"),
            Sample((T((1, 2, 4, 5, 4)), (2, 2, 2)), target="aten.avg_pool3d.default"),
        ),
    )
)


def _adaptive_sizes(call: Call) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The spatial extents before and after."""
    n = _ndim(call)
    read = next(value for value in call.results if value.name)
    return call.operands[0].shape[-n:], read.shape[-n:]


def _adaptive(call: Call) -> Rule:
    """Averages: a dim that becomes one row is summed over, any other is windowed."""
    before, after = _adaptive_sizes(call)
    names = SPATIAL[_ndim(call)]
    lead = batch(call, names)
    left, right = marks(names), " ".join("1" if m == 1 else f"{name}~" for name, m in zip(names, after, strict=True))
    rule = letters(f"{lead}c {left} -> {lead}c {right}", call)
    extents = dict(rule.extents) | {name: n for name, n, m in zip(names, before, after, strict=True) if m == 1}
    windows = {
        name: Window(-(-n // m) + (n % m > 0), n / m) for name, n, m in zip(names, before, after, strict=True) if m > 1
    }
    rule = replace(with_linear(rule, {0}), extents=extents, windows=windows, filled=frozenset("c"))
    return rule if lead else with_whole_space(rule, tuple(windows))


def _emit_adaptive(ctx: EmitContext) -> str:
    """This rank's addend of the mean over the dims that become one row, where one of them is split; then the others."""
    before, after = _adaptive_sizes(ctx.call)
    n, ndim = len(after), len(ctx.call.operands[0].shape)
    ones = [i for i, m in enumerate(after) if m == 1]
    x = ctx.args[0]
    if ctx.axes(*(SPATIAL[n][i] for i in ones)):
        dims = tuple(ndim - n + i for i in ones)
        count = math.prod(before[i] for i in ones)
        x = Expr(f"{atom(x)}.sum({literal(collapse(dims))}, keepdim=True) / {count}", atom=False)
        if len(ones) == n:
            return str(x)
    spaces = ctx.windows()
    if spaces:
        return invoke("interpolate", (x, after), [("mode", "area", None), ("over", spaces, None)])
    return invoke(f"F.adaptive_avg_pool{n}d", (x, collapse(after)))


register(
    Op(
        name="adaptive_avg_pool",
        targets=(
            "aten.adaptive_avg_pool2d.default",
            "aten.adaptive_avg_pool1d.default",
            "aten.adaptive_avg_pool3d.default",
            "aten._adaptive_avg_pool2d.default",
            "aten._adaptive_avg_pool3d.default",
        ),
        note="n c h~ w~ -> n c h~ w~, n c h w -> n c 1 1",
        rule=_adaptive,
        emit=_emit_adaptive,
        work="reduce",
        flops=lambda call, rule: float(call.operands[0].numel),
        saves="",
        samples=(
            Sample((T((2, 4, 5, 6)), (1, 1))),
            Sample((T((2, 4, 6, 7)), (2, 3))),
            Sample((T((2, 3, 5, 4)), (5, 1))),
            Sample((T((2, 4, 6)), (1,)), target="aten.adaptive_avg_pool1d.default"),
            Sample((T((2, 4, 3)), (5,)), target="aten.adaptive_avg_pool1d.default"),
            Sample((T((1, 2, 2, 3, 4)), (1, 1, 1)), target="aten.adaptive_avg_pool3d.default"),
            Sample((T((2, 3, 4, 5)), (2, 1)), target="aten._adaptive_avg_pool2d.default"),
            Sample((T((1, 2, 4, 3, 2)), (2, 2, 1)), target="aten._adaptive_avg_pool3d.default"),
        ),
    )
)


def _adaptive_max(call: Call) -> Rule:
    """Windowed where every extent divides and nobody reads the places, otherwise whole in space."""
    before, after = _adaptive_sizes(call)
    names = SPATIAL[_ndim(call)]
    lead = batch(call, names)
    space = marks(names)
    rule = letters(f"{lead}c {space} -> {', '.join(f'{lead}c {space}' for _ in call.results)}", call)
    windows = [Window(-(-n // m), n / m) for n, m in zip(before, after, strict=True)]
    rule = replace(with_windows(rule, windows, names), filled=frozenset("c"))
    regular = all(n % m == 0 for n, m in zip(before, after, strict=True))
    return rule if regular and not _places_read(call) else with_whole_space(rule, names)


def _emit_adaptive_max(ctx: EmitContext) -> str:
    before, after = _adaptive_sizes(ctx.call)
    spaces = ctx.windows()
    if spaces:
        kernel = tuple(n // m for n, m in zip(before, after, strict=True))
        return f"({invoke('max_pool', (ctx.args[0], kernel), [('over', spaces, None)])}, None)"
    places = _places_read(ctx.call)
    options = [("return_indices", places, False)]
    text = invoke(f"F.adaptive_max_pool{len(after)}d", (ctx.args[0], collapse(after)), options)
    return text if places else f"({text}, None)"


register(
    Op(
        name="adaptive_max_pool",
        targets=(
            "aten.adaptive_max_pool2d.default",
            "aten.adaptive_max_pool1d.default",
            "aten.adaptive_max_pool3d.default",
        ),
        note="n c h~ w~ -> n c h~ w~",
        rule=_adaptive_max,
        emit=_emit_adaptive_max,
        work="reduce",
        flops=lambda call, rule: float(call.operands[0].numel),
        samples=(
            Sample((T((2, 4, 6, 4)), (3, 2))),
            Sample((T((2, 3, 5, 4)), (3, 2))),
            Sample((T((2, 4, 6)), (3,)), target="aten.adaptive_max_pool1d.default"),
            Sample((T((1, 2, 4, 2, 3)), (2, 2, 1)), target="aten.adaptive_max_pool3d.default"),
        ),
    )
)


def _unpool(call: Call) -> Rule:
    """Batch and channels are free: places are counted in the whole plane of either side."""
    names = SPATIAL[_ndim(call)]
    before, after = (" ".join(f"[{side}{name}]" for name in names) for side in "xy")
    lead = batch(call, names)
    rule = letters(f"{lead}c {before}, {lead}c {before} -> {lead}c {after}", call)
    return replace(with_linear(rule, {0}), filled=frozenset("nc"))


memory(
    "max_unpool",
    ("aten.max_unpool2d.default", "aten.max_unpool3d.default"),
    "n c [h] [w], n c [h] [w] -> n c [h'] [w']",
    _unpool,
    overload,
    Sample((T((2, 4, 2, 3)), T((2, 4, 2, 3), "index 24"), (4, 6))),
    Sample(
        (T((2, 2, 1, 2, 1)), T((2, 2, 1, 2, 1), "index 16"), (2, 4, 2), (2, 2, 2), (0, 0, 0)),
        target="aten.max_unpool3d.default",
    ),
    saves="inputs",
)
