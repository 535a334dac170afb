"""Regions without a gradient, ``torch.no_grad()``, in a trace: what is computed in them is detached, what is handed through is not.

with torch.no_grad():
    y = h.to(h.dtype)             h itself, with its gradient
    z = h.abs()                   without one
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from autopar.capture.tracing.regions import graph_modules, is_region, region_graph, region_inputs, region_results

_DETACH = torch.ops.aten.detach.default


def detach_in_words(root: fx.GraphModule) -> None:
    """``x.detach_()`` as ``x = x.detach()``: functionalization would drop it, since it changes no number."""
    for part in graph_modules(root):
        for node in part.graph.nodes:
            if node.target is torch.ops.aten.detach_.default:
                node.target = _DETACH
        part.recompile()


def itself_without_gradient(root: fx.GraphModule) -> None:
    """Let what is read after a region be the tensor itself where a call in the region gave back nothing else.

    A trace knows a tensor by the last call that gave it back: after ``h.to(h.dtype)`` h is the result of this call, and its
    readers behind the region read a result of the region, which has no gradient.
    """
    for outer in graph_modules(root):
        for region in [node for node in outer.graph.nodes if is_region(node)]:
            inner = region_graph(outer, region)
            for node in list(inner.graph.nodes):
                source = _itself(node)
                if source is not None:
                    node.replace_all_uses_with(source)
                    inner.graph.erase_node(node)
            handed = region_inputs(inner)
            for i, node in enumerate(region_results(inner)):
                if node in handed:
                    for user in _reading(region, i):
                        user.replace_all_uses_with(region.args[2 + handed.index(node)])
            inner.recompile()
        outer.recompile()


def keep_no_grad(root: fx.GraphModule) -> None:
    """Detach what every region reads, since nothing it writes, to a buffer say, carries a gradient; and its results."""
    for outer in graph_modules(root):
        for region in [node for node in outer.graph.nodes if is_region(node)]:
            inner = region_graph(outer, region)
            for i in range(len(region_results(inner))):
                for user in _reading(region, i):
                    _detach_after(outer.graph, user)
            for node in region_inputs(inner):
                if isinstance(node.meta.get("val"), torch.Tensor):
                    _detach_after(inner.graph, node)
            inner.recompile()
        outer.recompile()


def _reading(region: fx.Node, i: int) -> list[fx.Node]:
    """Where result i of a region is taken out of it."""
    return [user for user in region.users if user.target is operator.getitem and user.args[1] == i]


def _itself(node: fx.Node) -> fx.Node | None:
    """The operand that a call gives back as the same object: the call is made once more, on what the trace has noted of it."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable or not node.args:
        return None
    if not torch._C._dispatch_has_kernel_for_dispatch_key(target._name, "CompositeImplicitAutograd"):
        return None
    source = node.args[0]
    value = source.meta.get("val") if isinstance(source, fx.Node) else None
    if not isinstance(value, torch.Tensor):
        return None
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda operand: operand.meta.get("val"))
    try:
        return source if target(*args, **kwargs) is value else None  # type: ignore[return-value]
    except Exception:  # then it computes something, and is not handed through
        return None


def _detach_after(graph: fx.Graph, node: fx.Node) -> None:
    with graph.inserting_after(node):
        detached = graph.call_function(_DETACH, (node,))
    detached.meta = dict(node.meta)
    node.replace_all_uses_with(detached, delete_user_cb=lambda user: user is not detached)
