"""`as_strided` counts elements of memory; a program is free in how its tensors lie there: the count is told of a flat view.

    y = x.t().contiguous();  y.as_strided((5, 2), (2, 1))       in the model
    flat = y.view(-1);       flat[2 * arange(5)[:, None] + arange(2)]      what it means, however y lies

`as_strided_scatter` stays as it is, on the flat view: its gradient in torch is not the one of an index that is written.
``x.resize_(size)`` is the first elements of memory, and what reads x afterwards reads these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import _disable_current_modes

from autopar.capture.diagnostics.source_lines import node_line, origin
from autopar.capture.tracing.regions import graph_modules
from autopar.errors import CaptureError, refusal

aten = torch.ops.aten
_SIZES: dict[Any, int] = {
    aten.as_strided.default: 1,
    aten.as_strided_copy.default: 1,
    aten.as_strided_scatter.default: 2,
}  # where they stand
_RESIZED = (aten.resize_.default, aten.resize_as_.default)
_RULE = (
    "as_strided counts elements in memory: of a tensor that fills it without gaps, and no further than its last element"
)
_FIX = "call .contiguous() before, or take windows with x.unfold(dim, size, step)"


def tell_of_flat(root: fx.GraphModule, files: frozenset[str]) -> None:
    """Let every call of `as_strided` read a flat view of its operand. Raises CaptureError where there is none."""
    for part in graph_modules(root):
        resized = [node for node in part.graph.nodes if node.target in _RESIZED]
        for node in resized:
            _read_resized(part.graph, node, files)
        strided = [node for node in part.graph.nodes if node.target in _SIZES]
        for node in strided:
            _flatten(part.graph, node, files)
        if strided or resized:
            part.recompile()


def _read_resized(graph: fx.Graph, node: fx.Node, files: frozenset[str]) -> None:
    """Let what is resized in place be read through a view of the elements that are left. Raises CaptureError where some are new."""
    source: Any = node.args[0]
    other: Any = node.args[1]
    value: Tensor = source.meta["val"]
    sizes = list(other.meta["val"].shape) if isinstance(other, fx.Node) else other
    count, order = math.prod(map(_hint, sizes)), _order(value)
    if count > value.numel() or order is None:
        fault = f"resize_ of {value.numel()} elements to {count}"
        rule = "a tensor that fills its memory without gaps is cut: the numbers of what is added are undefined"
        fix = "call .contiguous() before, or make the larger tensor with new_zeros, and write to a part of it"
        raise CaptureError(refusal(node_line(node, files) or "forward", fault, rule, fix=fix))
    later = dict.fromkeys(source.users)
    for before in graph.nodes:
        later.pop(before, None)
        if before is node:
            break
    with graph.inserting_before(node):
        flat = _flat(graph, node, source, order)
        left = _call(graph, node, aten.narrow.default, flat, 0, 0, count)
        resized = _call(graph, node, aten.view.default, left, sizes)
    resized.meta = dict(node.meta)
    node.replace_all_uses_with(resized)
    for user in later:
        user.replace_input_with(source, resized)
    graph.erase_node(node)


def _flatten(graph: fx.Graph, node: fx.Node, files: frozenset[str]) -> None:
    args: Sequence[Any] = node.args
    source, at = args[0], _SIZES[node.target]
    value: Tensor = source.meta["val"]
    sizes, strides = ([_hint(n) for n in numbers] for numbers in args[at : at + 2])
    start = _hint(args[at + 2]) if len(args) > at + 2 and args[at + 2] is not None else None
    own = _hint(value.storage_offset())
    first = 0 if start is None else start - own
    order = _order(value)
    last = first + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) if math.prod(sizes) else 0
    if order is None or first < 0 or last >= max(value.numel(), 1):
        raise _refused(node, value, files)
    with graph.inserting_before(node):
        flat = _flat(graph, node, source, order)
    node.args = (flat, *args[1 : at + 2], first)
    node.meta.pop("val")  # of the former operand
    if node.target is aten.as_strided_scatter.default:
        with graph.inserting_after(node):
            back = _call(graph, node, aten.view_as.default, node, flat.args[0])
        with graph.inserting_after(back):
            turned = [order.index(dim) for dim in range(len(order))]
            result = _call(graph, node, aten.permute.default, back, turned)
        node.replace_all_uses_with(result, delete_user_cb=lambda user: user not in (back, result))


def _flat(graph: fx.Graph, node: fx.Node, source: fx.Node, order: list[int]) -> fx.Node:
    """A view of one dim of a tensor whose dims lie in memory in this order."""
    lying = source if order == sorted(order) else _call(graph, node, aten.permute.default, source, order)
    return _call(graph, node, aten.view.default, lying, [-1])


def _call(graph: fx.Graph, node: fx.Node, target: Any, *args: Any) -> fx.Node:  # noqa: ANN401 (as fx takes them)
    """A call in the place of a node: with its line."""
    call = graph.call_function(target, args)
    call.meta = origin(node)
    return call


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
    fault = (
        f"as_strided of a tensor of shape {tuple(value.shape)} that lies in memory with strides {tuple(value.stride())}"
    )
    return CaptureError(refusal(node_line(node, files) or "forward", fault, _RULE, fix=_FIX))


def as_strided(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None = None) -> Tensor:
    """The elements of a flat x that `as_strided` reads."""
    if not size:
        return x[offset or 0]  # indexing with a tensor of no dims would look at its number
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
