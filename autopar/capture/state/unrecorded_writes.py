"""Tensors that forward changes in place where autograd does not record it, under ``torch.no_grad()`` or through ``.data``.

PyTorch leaves such a tensor its gradient: what reads w after ``with torch.no_grad(): w.mul_(c)`` reads the new numbers, and its
gradient is that of w before. A functional graph has no such thing. In the graph that still writes in place, a read after
the write therefore becomes

    valued(before, now)        the numbers of now = w.detach(), and the gradient of before = w.clone(), of before the write

for a parameter, for what forward has computed, and for each view of either.
"""

from __future__ import annotations

import heapq
import itertools
import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

import autopar.ops.library.written_values  # noqa: F401  (torch.ops.autopar.valued)
from autopar.capture.diagnostics.source_lines import node_line, origin
from autopar.capture.tracing.regions import graph_inside, is_region, region_graph, region_inputs, region_results
from autopar.errors import CaptureError, refusal

_aten = torch.ops.aten
_DETACH = _aten.detach.default
# results that no backward looks at: they may be written to unseen
_OUTPUT_FREE = frozenset(
    "add sub mul div neg linear addmm mm bmm matmul conv1d conv2d conv3d convolution clone cat stack embedding layer_norm".split()  # noqa: SIM905
)
_RULE = "backward must find the numbers that forward has used"
_FIX = "compute a new tensor instead (y = y.clamp(0, 1)), or write under torch.no_grad(), without .data, before anything reads it"


@dataclass(slots=True)
class _Watched:
    """What is known of one tensor while the nodes are read in order.

    objects   the tensor and its views with a gradient, also as results of what writes to them: whose memory and gradient each is
    silent    views without a gradient
    reads     what reads an object after the first write, and the object
    born      the views that were made after the first write
    """

    objects: dict[fx.Node, fx.Node]
    silent: set[fx.Node] = field(default_factory=set)
    reads: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    born: set[fx.Node] = field(default_factory=set)
    early: list[fx.Node] = field(default_factory=list)
    first: fx.Node | None = None  # the first write that autograd does not record
    unseen: bool = False  # one was through a detached view: not even counted as a version
    wrong: list[tuple[fx.Node, str]] = field(default_factory=list)


def keep_gradients(program: ExportedProgram, files: frozenset[str]) -> None:
    """Rewrite what reads such a tensor after it was written. Raises CaptureError where backward could not be right."""
    root = program.graph_module
    trained = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.PARAMETER and program.state_dict[str(spec.target)].requires_grad
    }
    _keep(root, {node for node in root.graph.nodes if node.op == "placeholder" and node.name in trained}, files)
    inner_graphs = [graph_inside(root, node) for node in root.graph.nodes if not is_region(node)]
    for inner in filter(None, inner_graphs):
        _keep(inner, set(region_inputs(inner)), files, nested=True)
    _untie(program)


def _keep(root: fx.GraphModule, leaves: set[fx.Node], files: frozenset[str], nested: bool = False) -> None:
    flowing, order = set(leaves), {node: i for i, node in enumerate(root.graph.nodes)}
    for node in order:  # before anything is rewritten: what a rewritten tensor flows into goes on flowing
        read = (_given_to(root, node),) if _is_result(node) else node.all_input_nodes
        if any(source in flowing for source in read) and node.target is not _DETACH and not is_region(node):
            flowing.add(node)
    for base in order:
        if base in flowing and _has_memory(base):
            seen = _watch(root, base, order)
            if seen.first is not None:
                if nested and base.op == "placeholder":
                    seen.wrong.append((seen.first, "a tensor is written without a gradient in a region under autocast"))
                _check(seen, base, files)
                _rewrite(root.graph, seen)
    root.recompile()


def _untie(program: ExportedProgram) -> None:
    """Names of one tensor that the graph does not read hold one of their own: a tensor that is written has one name."""
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.PARAMETER and spec.arg.name not in read:
            tensor = program.state_dict[str(spec.target)]
            program.state_dict[str(spec.target)] = torch.nn.Parameter(torch.empty_like(tensor), tensor.requires_grad)


def _is_result(node: fx.Node) -> bool:
    return node.target is operator.getitem and is_region(node.all_input_nodes[0])


def _given_to(root: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The tensor that a region was given and wrote to, of which `node` is what it is afterwards; None for another result."""
    region = node.all_input_nodes[0]
    inner = region_graph(root, region)
    result = region_results(inner)[node.args[1]]  # type: ignore[index]
    while isinstance(result, fx.Node) and (written := _written(result)):
        result = written[0]
    inputs = region_inputs(inner)
    return region.args[2 + inputs.index(result)] if result in inputs else None  # type: ignore[return-value]


def _has_memory(node: fx.Node) -> bool:
    """Whether a node yields a floating-point tensor that is no view of another."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not (value.is_floating_point() or value.is_complex()):
        return False
    computed = isinstance(node.target, torch._ops.OpOverload) or node.target is operator.getitem
    return node.op == "placeholder" or (computed and not _is_view(node) and not _written(node))


def _watch(root: fx.GraphModule, base: fx.Node, order: dict[fx.Node, int]) -> _Watched:
    """Follow the tensor and its views through what reads them, in the graph's order."""
    seen = _Watched({base: base})
    near = [(order[user], user) for user in base.users]
    heapq.heapify(near)
    done: set[fx.Node] = set()
    while near:
        _, node = heapq.heappop(near)
        if node in done or node not in order:
            continue
        done.add(node)
        _visit(root, node, seen)
        follow = [node] if node in seen.objects or node in seen.silent else []
        follow += (
            [user for user in node.users if user in seen.objects or user in seen.silent] if is_region(node) else []
        )
        for followed in follow:
            for user in followed.users:
                if user in order:
                    heapq.heappush(near, (order[user], user))
    return seen


def _visit(root: fx.GraphModule, node: fx.Node, seen: _Watched) -> None:
    """Note what one node that reads the tensor, or a view of it, does with it."""
    owners = [source for source in node.all_input_nodes if source in seen.objects]
    written = _written(node)
    if node.op == "output" or node in seen.objects or node in seen.silent:
        return  # a result of a region is known from there
    if is_region(node):
        _visit_region(root, node, seen)
    elif any(target in seen.silent for target in written):
        _note_write(node, seen, True)
        seen.silent.add(node)
    elif any(target in seen.objects for target in written):
        if seen.first is not None:
            seen.wrong.append((node, "a tensor is written in place with a gradient after it was written without one"))
        seen.objects[node] = seen.objects[written[0]]
    elif node.target is _DETACH or (_is_view(node) and not owners):
        seen.silent.add(node)
    elif _is_view(node) and isinstance(node.meta.get("val"), torch.Tensor):
        seen.objects[node] = node
        if seen.first is not None:
            seen.born.add(node)
    elif seen.first is None:
        seen.early += [node] if owners else []
    else:
        seen.reads += [(node, owner) for owner in owners]
    inner = graph_inside(root, node)
    if inner is not None and not is_region(node) and any(map(_written, inner.graph.nodes)):
        seen.wrong.append(
            (node, "a tensor that is written without a gradient is read in a region that writes in place")
        )


def _visit_region(root: fx.GraphModule, node: fx.Node, seen: _Watched) -> None:
    """A region without gradients: its writes, and which of its results are one of the objects or lie in their memory."""
    inner = region_graph(root, node)
    operands: dict[fx.Node, Any] = dict(zip(region_inputs(inner), node.args[2:], strict=True))
    same = {step: seen.objects[outer] for step, outer in operands.items() if outer in seen.objects}
    hidden = {step for step, outer in operands.items() if outer in seen.silent}
    silent = set(hidden)
    for step in inner.graph.nodes:
        written = _written(step)
        if any(other in same or other in silent for other in written):
            _note_write(node, seen, any(_detached(other, hidden) for other in written))
        if written and written[0] in same:
            same[step] = same[written[0]]
        elif any(
            other in same or other in silent for other in (written or (step.all_input_nodes if _is_view(step) else ()))
        ):
            silent.add(step)
    results = region_results(inner)
    for user in node.users:
        result = results[user.args[1]] if user.target is operator.getitem else None  # type: ignore[index]
        if result in same:
            seen.objects[user] = same[result]
        elif result in silent:
            seen.silent.add(user)


def _detached(node: fx.Node, hidden: set[fx.Node]) -> bool:
    """Whether a tensor inside a region is reached through a detach, which ``.data`` is: inside, or before it (`hidden`)."""
    while node.op != "placeholder":
        if node.target is _DETACH:
            return True
        written = _written(node)
        if not written and not _is_view(node):
            return False
        node = written[0] if written else node.all_input_nodes[0]
    return node in hidden


def _note_write(node: fx.Node, seen: _Watched, unseen: bool) -> None:
    seen.first = seen.first or node
    seen.unseen = seen.unseen or unseen


def _written(node: fx.Node) -> list[fx.Node]:
    """The arguments that a call changes in place."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    arguments = node.target._schema.arguments
    values = dict(zip((argument.name for argument in arguments), node.args, strict=False)) | dict(node.kwargs)
    changed = [
        values.get(argument.name)
        for argument in arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    every = itertools.chain.from_iterable(value if isinstance(value, list | tuple) else (value,) for value in changed)
    return [value for value in every if isinstance(value, fx.Node)]


def _is_view(node: fx.Node) -> bool:
    """Whether a node's result lies in the memory of its operand: a view, or one of the views that such a call returns."""
    if node.target is operator.getitem:
        source = node.all_input_nodes[0]
        return isinstance(source.target, torch._ops.OpOverload) and _is_view(source)
    target = node.target
    return (
        isinstance(target, torch._ops.OpOverload)
        and any(result.alias_info for result in target._schema.returns)
        and not any(
            argument.alias_info is not None and argument.alias_info.is_write for argument in target._schema.arguments
        )
    )


def _check(seen: _Watched, base: fx.Node, files: frozenset[str]) -> None:
    """Raise CaptureError where PyTorch's own backward goes by numbers that the graph does not have."""
    wrong = list(seen.wrong)
    if seen.unseen and seen.early:
        wrong.append(
            (seen.early[0], "a tensor is read with a gradient, and then written where autograd does not see it")
        )
    name = base.target.__name__.split(".")[0] if isinstance(base.target, torch._ops.OpOverload) else ""
    if seen.unseen and name and name not in _OUTPUT_FREE:
        wrong.append(
            (base, f"the result of {name}, which its backward reads, is written where autograd does not see it")
        )
    if wrong:
        node, fault = wrong[0]
        raise CaptureError(refusal(node_line(node, files) or "forward", fault, _RULE, fix=_FIX))


def _rewrite(graph: fx.Graph, seen: _Watched) -> None:
    """Let every late read be of the tensor as it is then, with the gradient that it had before the write."""
    copies: dict[fx.Node, fx.Node] = {}

    def before(view: fx.Node) -> fx.Node:
        if view not in copies:
            if view in seen.born:
                source = next(other for other in view.all_input_nodes if other in seen.objects)
                replaced = {source: before(seen.objects[source])}
                with graph.inserting_after(view):
                    copies[view] = graph.node_copy(view, lambda other: replaced.get(other, other))
            else:
                assert seen.first is not None
                with graph.inserting_before(seen.first):
                    copies[view] = _call(graph, _aten.clone.default, (view,), view)
        return copies[view]

    for node, view in seen.reads:
        old = before(seen.objects[view])
        with graph.inserting_before(node):
            now = _call(graph, _DETACH, (seen.objects[view],), node)
            node.replace_input_with(view, _call(graph, torch.ops.autopar.valued.default, (old, now), node))


def _call(graph: fx.Graph, target: torch._ops.OpOverload, args: tuple[fx.Node, ...], like: fx.Node) -> fx.Node:
    call = graph.call_function(target, args)
    call.meta = origin(like)
    call.meta["val"] = args[0].meta["val"]
    return call
