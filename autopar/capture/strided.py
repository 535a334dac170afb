"""`as_strided` counts elements of memory; a program is free in how its tensors lie there: the count is told of a flat view.

    y = x.t().contiguous();  y.as_strided((5, 2), (2, 1))       in the model
    flat = y.view(-1);       flat[2 * arange(5)[:, None] + arange(2)]      what it means, however y lies

`as_strided_scatter` stays as it is, on the flat view: its gradient in torch is not the one of an index that is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import _disable_current_modes

from autopar.capture.source import frames_of_text, innermost
from autopar.errors import CaptureError, refusal

aten = torch.ops.aten
_SIZES: dict[Any, int] = {
    aten.as_strided.default: 1,
    aten.as_strided_copy.default: 1,
    aten.as_strided_scatter.default: 2,
}  # where they stand
_RULE = (
    "as_strided counts elements in memory: of a tensor that fills it without gaps, and no further than its last element"
)
_FIX = "call .contiguous() before, or take windows with x.unfold(dim, size, step)"


def tell_of_flat(root: fx.GraphModule, files: frozenset[str]) -> None:
    """Let every call of `as_strided` read a flat view of its operand. Raises CaptureError where there is none."""
    for part in [one for one in root.modules() if isinstance(one, fx.GraphModule)]:
        found = [node for node in part.graph.nodes if node.target in _SIZES]
        for node in found:
            _flatten(part.graph, node, files)
        if found:
            part.recompile()


def _flatten(graph: fx.Graph, node: fx.Node, files: frozenset[str]) -> None:
    args: Sequence[Any] = node.args
    source, at = args[0], _SIZES[node.target]
    value: Tensor = source.meta["val"]
    sizes, strides = ([_hint(n) for n in given] for given in args[at : at + 2])
    start = _hint(args[at + 2]) if len(args) > at + 2 and args[at + 2] is not None else None
    own = _hint(value.storage_offset())
    first = 0 if start is None else start - own
    order = _order(value)
    last = first + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) if math.prod(sizes) else 0
    if order is None or first < 0 or last >= max(value.numel(), 1):
        raise _refused(node, value, files)
    meta: dict[str, Any] = {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}

    def call(target: Any, *args: Any) -> fx.Node:  # noqa: ANN401 (as fx takes them)
        made = graph.call_function(target, args)
        made.meta = dict(meta)
        return made

    with graph.inserting_before(node):
        lying = source if order == sorted(order) else call(aten.permute.default, source, order)
        flat = call(aten.view.default, lying, [-1])
    node.args = (flat, *args[1 : at + 2], first)
    if node.target is aten.as_strided_scatter.default:
        with graph.inserting_after(node):
            back = call(aten.view_as.default, node, lying)
        with graph.inserting_after(back):
            result = call(aten.permute.default, back, [order.index(dim) for dim in range(len(order))])
        node.replace_all_uses_with(result, delete_user_cb=lambda user: user not in (back, result))


def _order(value: Tensor) -> list[int] | None:
    """The dims as they lie in memory, the outermost first; None where there are gaps or elements that are read twice."""
    sizes, strides = [_hint(n) for n in value.shape], [_hint(n) for n in value.stride()]
    order = sorted(range(value.dim()), key=lambda dim: (-strides[dim], sizes[dim] == 1, dim))
    expected = 1
    for dim in reversed(order):
        if sizes[dim] != 1 and strides[dim] != expected:
            return None
        expected *= sizes[dim]
    return order


def _hint(number: Any) -> int:  # noqa: ANN401 (an extent or a node of one, with a symbol or without)
    value = number.meta["val"] if isinstance(number, fx.Node) else number
    return int(value.node.hint) if isinstance(value, torch.SymInt) else int(value)


def _refused(node: fx.Node, value: Tensor, files: frozenset[str]) -> CaptureError:
    frame = innermost(frames_of_text(node.meta.get("stack_trace") or ""), files)
    where = f"{frame.place}: `{frame.code}`" if frame else "forward"
    given = (
        f"as_strided of a tensor of shape {tuple(value.shape)} that lies in memory with strides {tuple(value.stride())}"
    )
    return CaptureError(refusal(where, given, _RULE, fix=_FIX))


def as_strided(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None = None) -> Tensor:
    """The elements of a flat x that `as_strided` reads."""
    return x[_places(x, size, stride, offset)]


def _places(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None) -> Tensor:
    places = torch.full((), offset or 0, dtype=torch.int64, device=x.device)
    for dim, (n, step) in enumerate(zip(size, stride, strict=True)):
        along = (
            torch.arange(0, n * step, step, device=x.device)
            if step
            else torch.zeros(n, dtype=torch.int64, device=x.device)
        )
        places = places.unsqueeze(-1) + along if dim or offset else along
    return places


def view(x: Tensor, size: Sequence[int]) -> Any:  # noqa: ANN401 (a tensor, or what says that there is nothing to write out)
    """A view where memory allows one, else a copy: writes are gone, and what was written may lie otherwise than in the model."""
    if x.is_contiguous():
        return NotImplemented
    try:
        with _disable_current_modes():
            torch.empty_strided(x.shape, x.stride(), device="meta").view(size)
    except (RuntimeError, ValueError):
        return x.clone(memory_format=torch.contiguous_format).view(size)
    return NotImplemented
