"""Whether a plan that was read makes sense: every layout and mode known, every axis and call there, no negative number.

The JSON schema has been checked before, so types are right. What a hand edit or a damaged disk can still break is said
here in full, so that the commands and the compiler may trust a plan that they have read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from autopar.errors import ConfigError, nearest
from autopar.ir import machine as machines
from autopar.ir.graph import ITEMSIZE
from autopar.ir.layout import parse_layout
from autopar.ir.pipeline.placement_check import placement_offenders
from autopar.ir.plan import ConversionPlan, InnerPlan, NodePlan, Plan

_MODES = ("split", "replicate", "copied", "linear")
_KINDS = ("input", "parameter", "frozen", "buffer", "constant")


def offenders(plan: Plan) -> Iterator[str]:
    """What is wrong with the plan, one line each."""
    try:
        axes = plan.shape.names
        machines.check(plan.machine)
    except ConfigError as error:
        yield str(error).replace("\n", "; ")
        return
    known = {node.name for node in plan.nodes}
    for tensor in (*plan.inputs, *plan.parameters):
        yield from (f"{tensor.name}: {name!r} is no call" for name in tensor.readers if name not in known)
        yield from _bad_layouts(tensor.name, tensor.layouts, len(axes))
        if tensor.kind not in _KINDS or tensor.dtype not in ITEMSIZE:
            yield f"{tensor.name}: {tensor.dtype!r}, {tensor.kind!r} is no dtype and kind"
    for output in plan.outputs:
        yield from _bad_layouts(output.name, output.layouts, len(axes))
        yield from [f"{output.name}: {output.dtype!r} is no dtype"] * (output.dtype not in ITEMSIZE)
    for node in plan.nodes:
        yield from _bad_choices(node, len(axes))
    for conversion in plan.conversions:
        yield from (f"{conversion.value}: {name!r} is no call" for name in conversion.consumers if name not in known)
    for place in plan.places:
        yield from (f"place {place.text}: {name!r} is no call" for name in place.calls if name not in known)
        if place.conversion is not None and place.conversion >= len(plan.conversions):
            yield f"place {place.text}: conversion {place.conversion} of {len(plan.conversions)}"
    moved: list[ConversionPlan | InnerPlan] = [*plan.conversions, *(move for node in plan.nodes for move in node.inner)]
    yield from (f"{m.primitive}: {m.axis!r} is no axis{nearest(m.axis, axes)}" for m in moved if m.axis not in axes)
    factors = [("filled", factor) for factor in plan.filled]
    factors += [("work", factor) for work in plan.work for factor in work.cuts]
    for what, (names, extent) in factors:
        yield from (f"{what}: {name!r} is no axis{nearest(name, axes)}" for name in names if name not in axes)
        yield from [f"{what}: an extent of {extent}"] * (extent < 1)
    yield from (f"repeats of {prefix!r} has no members" for prefix, members in plan.repeats if not members)
    if len(plan.recomputed) != len(plan.repeats):
        yield f"recomputed tells of {len(plan.recomputed)} repeats, of which there are {len(plan.repeats)}"
    if plan.placement is not None:
        yield from placement_offenders(plan.placement, [node.name for node in plan.nodes])
        for edge in plan.placement.edges:
            yield from _bad_layouts(edge.name, edge.layouts, len(axes))
    yield from _negative(dataclasses.asdict(plan), "")


def _bad_choices(node: NodePlan, axes: int) -> Iterator[str]:
    if len(node.choices) != axes:
        yield f"{node.name}: {len(node.choices)} choices on {axes} axes"
    if len({(len(choice.operands), len(choice.results)) for choice in node.choices}) > 1 or not all(
        choice.results for choice in node.choices
    ):
        yield f"{node.name}: its choices speak of different numbers of operands and results"
    for choice in node.choices:
        if choice.mode not in _MODES:
            yield f"{node.name}: {choice.mode!r} is no mode{nearest(choice.mode, _MODES)}"
        yield from _bad_layouts(node.name, (*choice.operands, *choice.results), None)


def _bad_layouts(name: str, layouts: tuple[str, ...], axes: int | None) -> Iterator[str]:
    if axes is not None and len(layouts) != axes:
        yield f"{name}: {len(layouts)} layouts on {axes} axes"
    for text in layouts:
        try:
            parse_layout(text)
        except ValueError as error:
            yield f"{name}: {error}"


def _negative(item: object, path: str) -> Iterator[str]:
    """Places of negative numbers: a plan has none."""
    if isinstance(item, dict):
        for key, value in item.items():
            yield from _negative(value, f"{path}.{key}".lstrip("."))
    elif isinstance(item, tuple):
        for i, value in enumerate(item):
            yield from _negative(value, f"{path}[{i}]")
    elif isinstance(item, int | float) and item < 0:
        yield f"{path}: {item} is negative"
