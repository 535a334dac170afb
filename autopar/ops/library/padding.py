"""Padding and cropping.

A padded dim is windowed (``b* h~ -> b* h~``): a result row is an operand row moved, or one that the mode mirrors or
repeats, which may lie on another rank (`autopar.runtime.pad`). Dims that are not padded are free.
"""

from __future__ import annotations

from dataclasses import replace

from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Sample, T, memory
from autopar.ops.record.printing import invoke
from autopar.ops.record.rule import Call, Rule, Window, letters, with_linear


def _amounts(call: Call) -> dict[int, tuple[int, int]]:
    """Rows put before and behind, by dim, for all dims that the call names."""
    numbers = call.node.args[1]
    assert isinstance(numbers, tuple)
    ndim = len(call.operands[0].shape)
    return {ndim - 1 - i: pair for i, pair in enumerate(zip(numbers[::2], numbers[1::2], strict=True))}


def _mode(call: Call) -> tuple[str, object]:
    """The mode, and the value of constant padding."""
    if "constant_pad_nd" in call.node.target:
        return "constant", call.arg(2, "value", 0) or 0
    return str(call.arg(2, "mode", "constant")), call.arg(3, "value") or 0


def _pad(call: Call) -> Rule:
    """Linear where the padding is zeros or rows of x."""
    named, (mode, value) = _amounts(call), _mode(call)
    ndim = len(call.operands[0].shape)
    amounts = {dim: pair for dim, pair in named.items() if any(pair)}
    names = " ".join(f"d{i}~" if i in amounts else f"d{i}" for i in range(ndim))
    windows = {f"d{i}": Window(1, 1, low) for i, (low, _) in amounts.items()}
    rule = replace(letters(f"{names} -> {names}", call), windows=windows)
    rule = rule if mode == "constant" and value else with_linear(rule, {0})
    if mode == "constant":
        return rule
    inner = range(max(1, ndim - len(named) - 1), ndim)  # torch refuses an empty batch of channels there
    return replace(rule, filled=frozenset(f"d{i}" for i in inner if i not in amounts))


def _emit_pad(ctx: EmitContext) -> str:
    mode, value = _mode(ctx.call)
    spaces = ctx.windows()
    if not spaces:
        return invoke("F.pad", ctx.args[:2], [("mode", mode, "constant"), ("value", value, 0)])
    word = "zeros" if mode == "constant" else mode
    return invoke("pad", ctx.args[:2], [("mode", word, "zeros"), ("value", value, 0), ("over", spaces, None)])


memory(
    "pad",
    ("aten.pad.default", "aten.constant_pad_nd.default"),
    "b* h~ -> b* h~",
    _pad,
    _emit_pad,
    Sample((T((2, 4, 6)), (1, 2))),
    Sample((T((2, 4, 6)), (0, 0, 1, 0), "constant", 1.5)),
    Sample((T((2, 4, 6)), (1, 1), "reflect")),
    Sample((T((2, 3, 6, 5)), (1, 1, 2, 0), "reflect")),
    Sample((T((2, 3, 4, 5)), (2, 1, 0, 3), "replicate")),
    Sample((T((2, 3, 6, 4)), (1, 2, 3, 0), "circular")),
    Sample((T((3, 7)), (-2, 1))),
    Sample((T((4, 6), "index 5"), (1, 2, 0, 1), "constant", 3)),
    Sample((T((2, 4, 6)), (0, 1)), target="aten.constant_pad_nd.default"),
)
