"""Convolutions in one to three dimensions, plain and transposed.

    conv2d            n c h~ w~, k c [r] [s], k? -> n k h~ w~          sum over c, r, s
    groups > 1        n (g i) h~ w~, (g o) i [r] [s], (g o)? -> n (g o) h~ w~      sum over i, r, s
    conv_transpose2d  n c h~ w~, c k [r] [s], k? -> n k h~ w~

Channels need at least one row per rank: torch's kernels refuse an empty channel dim, or misread it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from autopar.ops.library.linear import biased
from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Sample, T, contraction
from autopar.ops.record.printing import Expr, invoke
from autopar.ops.record.rule import Call, Rule, Window, letters
from autopar.ops.record.windows import SPATIAL, batch, collapse, marks, spread, with_windows


@dataclass(frozen=True, slots=True)
class _Form:
    """The literal arguments of a convolution of any overload.

    `uneven` is 1 for a dim that is padded by one row more behind than before (``"same"`` with an even kernel).
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool
    output_padding: tuple[int, ...]
    uneven: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.stride)


def _form(call: Call) -> _Form:
    target = call.function
    transposed = "transpose" in target
    order: tuple[str, ...] = ("stride", "padding", "dilation", "groups")
    if target == "convolution":
        order = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    elif transposed:
        order = ("stride", "padding", "output_padding", "groups", "dilation")
    options = {name: call.arg(3 + i, name) for i, name in enumerate(order)}
    weight = call.operands[1].shape
    n = len(weight) - 2
    padding = options["padding"]
    stride, dilation = spread(options["stride"], n, 1), spread(options["dilation"], n, 1)
    uneven = (0,) * n
    if isinstance(padding, str):
        total = [0 if padding == "valid" else d * (k - 1) for d, k in zip(dilation, weight[2:], strict=True)]
        padding, uneven = tuple(rows // 2 for rows in total), tuple(rows % 2 for rows in total)
    groups = options["groups"]
    return _Form(
        stride,
        spread(padding, n, 0),
        dilation,
        groups if isinstance(groups, int) else 1,
        transposed or bool(options.get("transposed")),
        spread(options.get("output_padding"), n, 0),
        uneven,
    )


def _conv(call: Call) -> Rule:
    """Sums over the input channels and the window; the bias is added once."""
    form = _form(call)
    names = SPATIAL[form.ndim]
    kernel = call.operands[1].shape[2:]
    sizes = zip(kernel, form.stride, form.padding, form.dilation, strict=True)
    windows = [Window(*size, transposed=form.transposed) for size in sizes]
    space = marks(names)
    lead = batch(call, names)
    window = " ".join(f"[{name}]" for name in ("p", "q", "r")[: form.ndim])
    i, o = ("c", "k") if form.groups == 1 else ("(g i)", "(g o)")
    if form.transposed:
        weight = f"c k {window}" if form.groups == 1 else f"{i} o {window}"
    else:
        weight = f"k c {window}" if form.groups == 1 else f"{o} i {window}"
    rule = letters(f"{lead}{i} {space}, {weight}, {o}? -> {lead}{o} {space}", call)
    return biased(replace(with_windows(rule, windows, names), filled=frozenset("ckgio")))


def _emit_conv(ctx: EmitContext) -> str:
    form = _form(ctx.call)
    operands = (*ctx.args[:2], ctx.pick(2, "bias"))
    spaces = ctx.windows()
    grouped = ctx.size(("g",)) if "g" in ctx.rule.extents else str(form.groups)
    groups = ("groups", Expr(grouped) if grouped != "1" else 1, 1)
    stride = ("stride", collapse(form.stride), 1)
    padding = ("padding", "same" if any(form.uneven) and not spaces else collapse(form.padding), 0)
    dilation = ("dilation", collapse(form.dilation), 1)
    more = ("output_padding", collapse(form.output_padding), 0)
    listed = [stride, padding, more, groups, dilation] if form.transposed else [stride, padding, dilation, groups]
    if not spaces:
        name = f"F.conv{'_transpose' * form.transposed}{form.ndim}d"
        return invoke(name, operands, listed)
    if any(form.uneven):  # the row more behind is padded first
        behind = tuple(rows for more in reversed(form.uneven) for rows in (0, more))
        padded = Expr(invoke("pad", (operands[0], behind), [("over", spaces, None)]))
        operands = (padded, *operands[1:])
        spaces = replace(ctx, call=_padded(ctx.call, form.uneven)).windows()
    return invoke("conv" + "_transpose" * form.transposed, operands, [*listed, ("over", spaces, None)])


def _padded(call: Call, rows: tuple[int, ...]) -> Call:
    """The call on an operand with more rows behind its spatial dims."""
    x = call.operands[0]
    first = len(x.shape) - len(rows)
    shape = (*x.shape[:first], *(n + more for n, more in zip(x.shape[first:], rows, strict=True)))
    return replace(call, operands=(replace(x, shape=shape), *call.operands[1:]))


def _flops(call: Call, rule: Rule) -> float:
    """A multiplication and an addition per tap of every result element, or operand element where transposed."""
    form, weight = _form(call), call.operands[1]
    each = call.operands[0].numel if form.transposed else call.results[0].numel
    return 2.0 * each * math.prod(weight.shape[1:])


def _plain_samples() -> tuple[Sample, ...]:
    x, w, b, b3 = T((2, 4, 7, 6)), T((4, 4, 3, 2)), T((4,)), T((3,))
    return (
        Sample((x, w, b, (1, 1), (1, 1))),
        Sample((x, w, None, (2, 3), (1, 0), (2, 1))),
        Sample((x, T((4, 4, 1, 1)), b)),
        Sample((x, T((4, 1, 3, 3)), b, (1, 1), (1, 1), (1, 1), 4)),
        Sample((T((2, 4, 6, 4)), T((6, 2, 1, 1)), None, (1, 1), (0, 0), (1, 1), 2)),
        Sample((T((1, 4, 5)), T((8, 2, 3)), T((8,)), (1,), (1,), (1,), 2), target="aten.conv1d.default"),
        Sample((T((2, 3, 9)), T((4, 3, 4)), b, (3,), (2,)), target="aten.conv1d.default"),
        Sample((T((3, 8)), T((4, 3, 3)), None, (2,)), target="aten.conv1d.default"),
        Sample((T((1, 2, 4, 5, 3)), T((2, 2, 3, 3, 3)), T((2,)), (1, 1, 1), (1, 1, 1)), target="aten.conv3d.default"),
        Sample((x, T((4, 4, 3, 3)), b, (1, 1), "same"), target="aten.conv2d.padding"),
        Sample((x, T((4, 4, 2, 2)), b, (1, 1), "same"), target="aten.conv2d.padding"),
        Sample((T((2, 2, 6)), T((3, 2, 2)), b3, (1,), "same"), target="aten.conv1d.padding"),
        Sample((T((1, 2, 4, 3, 3)), T((2, 2, 2, 1, 3)), None, (1,), "valid"), target="aten.conv3d.padding"),
        Sample((x, T((4, 4, 3, 2)), None, (1, 1), "same", (2, 3)), target="aten.conv2d.padding"),
        Sample(
            (x, w, T((4,), "constant"), (1, 2), (0, 1), (1, 1), False, (0, 0), 1), target="aten.convolution.default"
        ),
        Sample((x, T((4, 2, 1, 1)), b, (1, 1), (0, 0), (1, 1), False, (0, 0), 2), target="aten.convolution.default"),
        Sample((x, T((4, 1, 3, 2)), None, (2, 1), (1, 0), (1, 1), True, (1, 0), 2), target="aten.convolution.default"),
    )


contraction(
    "conv",
    (
        "aten.conv2d.default",
        "aten.conv1d.default",
        "aten.conv3d.default",
        "aten.conv1d.padding",
        "aten.conv2d.padding",
        "aten.conv3d.padding",
        "aten.convolution.default",
    ),
    "n c h~ w~, k c [r] [s], k? -> n k h~ w~",
    _conv,
    _emit_conv,
    *_plain_samples(),
    flops=_flops,
    work="conv",
)
contraction(
    "conv_transpose",
    (
        "aten.conv_transpose2d.input",
        "aten.conv_transpose1d.default",
        "aten.conv_transpose3d.input",
    ),
    "n c h~ w~, c k [r] [s], k? -> n k h~ w~",
    _conv,
    _emit_conv,
    Sample((T((2, 4, 5, 4)), T((4, 2, 2, 2)), T((2,)), (2, 2))),
    Sample((T((2, 4, 5, 4)), T((4, 6, 3, 4)), None, (2, 1), (1, 2), (1, 0))),
    Sample((T((2, 4, 4, 3)), T((4, 1, 2, 2)), T((4,)), (2, 2), (0, 0), (0, 0), 4)),
    Sample((T((2, 3, 6)), T((3, 4, 3)), T((4,)), (2,)), target="aten.conv_transpose1d.default"),
    Sample((T((1, 4, 5)), T((4, 3, 3)), T((6,)), (2,), (1,), (1,), 2), target="aten.conv_transpose1d.default"),
    Sample((T((1, 2, 3, 4, 2)), T((2, 2, 2, 2, 2)), None, (2, 2, 2)), target="aten.conv_transpose3d.input"),
    flops=_flops,
    work="conv",
)
