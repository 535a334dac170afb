"""Poolings: windows over spatial letters, no sum over channels.

Rounding the extent up, and a divisor of one's own, have no distributed form: the spatial dims are whole there. An
adaptive average to one row is a mean over all rows, a sum over letters like any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autopar.ops.op import Expr, Local, Op, Sample, T, register
from autopar.ops.rule import Call, Rule, Window, letters, with_linear
from autopar.ops.text import atom, invoke, literal
from autopar.ops.window import SPATIAL, collapse, marks, over, spread, with_whole_space, with_windows


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
    given = call.arg(2, "stride")
    stride = spread(given, n, 1) if given not in (None, ()) else kernel
    padding = spread(call.arg(3, "padding"), n, 0)
    if "max" in call.node.target:
        dilation, ceil = spread(call.arg(4, "dilation"), n, 1), bool(call.arg(5, "ceil_mode", False))
        return _Pool(kernel, stride, padding, dilation, ceil, True, None)
    ceil, count = bool(call.arg(4, "ceil_mode", False)), bool(call.arg(5, "count_include_pad", True))
    return _Pool(kernel, stride, padding, (1,) * n, ceil, count, call.arg(6, "divisor_override"))


def _rule(call: Call) -> Rule:
    """n and c are free; spatial letters are windowed, or frozen where the split form would be another function."""
    pool = _pool(call)
    names = SPATIAL[pool.ndim]
    sizes = zip(pool.kernel, pool.stride, pool.padding, pool.dilation, strict=True)
    windows = [Window(*one) for one in sizes]
    batch = "n " if len(call.operands[0].shape) == pool.ndim + 2 else ""
    space = marks(names)
    results = ", ".join(f"{batch}c {space}" for _ in call.results)
    rule = with_windows(letters(f"{batch}c {space} -> {results}", call), windows, names)
    rule = replace(rule, filled=frozenset("c"))
    positions = len(call.results) > 1 and bool(call.results[1].name)  # flat indices into the whole plane
    if pool.ceil_mode or positions or pool.divisor is not None:
        rule = with_whole_space(rule, names)
    return rule if "max" in call.node.target else with_linear(rule, {0})


def _emit(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    pool = _pool(call)
    kind = "max" if "max" in call.node.target else "avg"
    indices = len(call.results) > 1 and bool(call.results[1].name)
    listed = [
        ("stride", collapse(pool.stride), collapse(pool.kernel)),
        ("padding", collapse(pool.padding), 0),
        ("dilation", collapse(pool.dilation), 1),
        ("count_include_pad", pool.count_padding, True),
        ("ceil_mode", pool.ceil_mode, False),
        ("divisor_override", pool.divisor, None),
        ("return_indices", indices, False),
    ]
    spaces = over(call, rule, local)
    if spaces:
        text = invoke(f"{kind}_pool", (args[0], pool.kernel), [*listed, ("over", Expr(spaces), None)])
    else:
        text = invoke(f"F.{kind}_pool{pool.ndim}d", (args[0], collapse(pool.kernel)), listed)
    return text if len(call.results) == 1 or indices else f"({text}, None)"


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
            Sample((T((2, 3, 9)), (3,), (1,), (1,), (2,)), target="aten.max_pool1d.default"),
            Sample((T((1, 2, 4, 5, 4)), (2, 2, 2)), target="aten.max_pool3d.default"),
            Sample((T((2, 4, 6, 6)), (2, 2)), target="aten.max_pool2d_with_indices.default"),
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
            Sample((T((2, 3, 8)), (2,)), target="aten.avg_pool1d.default"),
            Sample((T((1, 2, 4, 5, 4)), (2, 2, 2)), target="aten.avg_pool3d.default"),
        ),
    )
)


def _adaptive(call: Call) -> Rule:
    """To one row: a sum over all rows. To any other number of rows: the dim is whole."""
    x, y = call.operands[0].shape, call.results[0].shape
    n = _ndim(call)
    to_one = set(y[-n:]) == {1}
    given = " ".join(name if to_one else f"[x{name}]" for name in SPATIAL[n])
    after = " ".join("1" if to_one else f"[y{name}]" for name in SPATIAL[n])
    batch = "n " if len(x) == n + 2 else ""
    rule = letters(f"{batch}c {given} -> {batch}c {after}", call)
    return replace(with_linear(rule, {0}), filled=frozenset("c"))


def _emit_adaptive(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """This rank's addend of the mean where a spatial letter is split."""
    x, y = call.operands[0].shape, call.results[0].shape
    n = _ndim(call)
    summed = tuple(range(len(x) - n, len(x)))
    if not local.axes(SPATIAL[n]):
        return invoke(f"F.adaptive_avg_pool{n}d", (args[0], collapse(y[-n:])))
    return f"{atom(args[0])}.sum({literal(collapse(summed))}, keepdim=True) / {math.prod(x[-n:])}"


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
        note="n c h w -> n c 1 1",
        rule=_adaptive,
        emit=_emit_adaptive,
        work="reduce",
        saves="",
        samples=(
            Sample((T((2, 4, 5, 6)), (1, 1))),
            Sample((T((2, 4, 6, 6)), (2, 3))),
            Sample((T((2, 4, 6)), (1,)), target="aten.adaptive_avg_pool1d.default"),
            Sample((T((1, 2, 2, 3, 4)), (1, 1, 1)), target="aten.adaptive_avg_pool3d.default"),
        ),
    )
)
