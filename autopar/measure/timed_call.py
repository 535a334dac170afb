"""A call under a strategy as something to time: the line of the program, the axes in it, and the tensors it is given.

Two calls whose jobs are equal take the same time: repeated blocks are timed once, and so are strategies that come to the same
local shapes and the same line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autopar.codegen.local_extents import local_of
from autopar.costmodel.local_shapes import local_shape
from autopar.ir.graph import Graph, Value
from autopar.ir.grid import GridShape
from autopar.ops.record.emit_context import emit_context
from autopar.ops.record.printing import Expr
from autopar.ops.record.rule import Choice
from autopar.partitioner.formulation.strategies import CallStrategies, Strategy, operand_layouts


@dataclass(frozen=True, slots=True)
class TimedOperand:
    """A tensor that a job is given. `images` says that its memory is in the order of images (channels last)."""

    shape: tuple[int, ...]
    dtype: str
    differentiable: bool
    parameter: bool
    images: bool


@dataclass(frozen=True, slots=True)
class TimedCall:
    """`text` is a Python expression over operands ``x0, x1, ...`` and axes; an axis is (name, size, index of the timed rank)."""

    text: str
    axes: tuple[tuple[str, int, int], ...]
    operands: tuple[TimedOperand, ...]


def timed_call_of(
    item: CallStrategies, strategy: Strategy, grid: GridShape, parameters: frozenset[str], images: frozenset[str]
) -> TimedCall:
    """The job of a call. The rank with the largest part is timed: the first, or the last where work grows along a dim."""
    names = tuple(name.upper() for name in grid.names)
    order = {name: i for i, name in enumerate(dict.fromkeys(item.node.inputs))}
    printed = [Expr(f"x{order[name]}") for name in item.node.inputs]
    text = item.op.emit(emit_context(item.call, item.rule, local_of(item.rule, strategy, names), printed))
    axes = tuple(
        (name, size, size - 1 if _grows(item, choice, grid) else 0)
        for name, size, choice in zip(names, grid.sizes, strategy, strict=True)
        if name in text
    )
    operands: dict[str, TimedOperand] = {}
    for i, (name, value) in enumerate(zip(item.node.inputs, item.call.operands, strict=True)):
        shape = local_shape(value.shape, operand_layouts(strategy, i), grid)
        operands.setdefault(
            name, TimedOperand(shape, value.dtype, value.differentiable, name in parameters, name in images)
        )
    return TimedCall(text, axes, tuple(operands.values()))


def _grows(item: CallStrategies, choice: Choice, grid: GridShape) -> bool:
    """Whether the last rank has most to do: work grows along the rows that are cut, and all parts have as many of them."""
    if item.op.skew is None or choice.mode != "split":
        return False
    return item.rule.extents[choice.letter] // (choice.blocks * choice.unit) % grid.size == 0


def images_of(graph: Graph) -> frozenset[str]:
    """The values whose memory is in the order of images in the emitted program: what is computed from images that a
    two-dimensional convolution reads, and then all parameters of four dims (`autopar.codegen.emit`)."""
    found = {node.inputs[0] for node in graph.nodes if _is_conv2d(graph.values, node.target, node.inputs)} & {
        item.value for item in graph.inputs
    }
    for node in graph.nodes:
        if any(name in found for name in node.inputs):
            found |= {name for name in node.outputs if name and len(graph.values[name].shape) == 4}
    filters = {item.value for item in graph.parameters if len(graph.values[item.value].shape) == 4}
    return frozenset(found | filters if found else found)


def _is_conv2d(values: Mapping[str, Value], target: str, inputs: tuple[str, ...]) -> bool:
    return "conv" in target and len(inputs) > 1 and len(values[inputs[1]].shape) == 4
