"""From a plan to the tasks of one training step, in the order in which its program carries them out.

Forward, the calls in order, each behind the conversions that are made for it; then backward, all of that in reverse with
the adjoints; after the backward of a call, the gradient buckets that it has filled; at the end the rest of them and the update.
Halos come before the call that needs them, sums of a call's distributed form behind it. Of repeated blocks the conversions
are listed once, for the first block, and take place in all. A conversion that is made for no call stands behind the call that makes
its value, or else in front of the block or behind the module that it is named for, or at the end (the loss).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from autopar.costmodel import gradient_buckets
from autopar.costmodel.collectives import summed_axes
from autopar.costmodel.local_shapes import local_bytes
from autopar.costmodel.timeline import Event, Task, simulate
from autopar.ir.graph import ITEMSIZE
from autopar.ir.grid import GridShape
from autopar.ir.layout import parse_layout
from autopar.ir.machine import Machine, linked
from autopar.ir.plan import ConversionPlan, InnerPlan, NodePlan, Plan, TensorPlan


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a plan makes its timeline; `update` is in seconds, `updates` the share of it that each rank takes."""

    grid: GridShape
    machine: Machine
    nodes: tuple[NodePlan, ...]
    conversions: tuple[ConversionPlan, ...]
    repeats: tuple[tuple[str, tuple[str, ...]], ...]
    parameters: tuple[TensorPlan, ...]
    update: float
    updates: tuple[float, ...] = ()


def parts(plan: Plan) -> Parts:
    """What of a plan makes its timeline."""
    machine = linked(plan.machine, plan.shape.size)
    if plan.batch.division is not None:  # gradients are summed behind the last micro-batch
        machine = replace(machine, overlap=0.0, overlap_inter=None)
    update = max((rank.update for rank in plan.ranks), default=plan.predicted.update)
    updates = tuple(rank.update / update if update else 1.0 for rank in plan.ranks)
    return Parts(plan.shape, machine, plan.nodes, plan.conversions, plan.repeats, plan.parameters, update, updates)


def of(plan: Plan) -> tuple[Task, ...]:
    """The tasks of one step of a plan."""
    return tasks(parts(plan))


def events(plan: Plan) -> tuple[Event, ...]:
    """What a rank does in one step, as predicted; where ranks are not alike, the first."""
    return simulate(of(plan), plan.shape.sizes if plan.ranks else ()).events[0]


def tasks(parts: Parts) -> tuple[Task, ...]:
    """The tasks of one step."""
    calls, filled = _placed(parts), sums(parts)
    builder = _ScheduleBuilder(parts, filled)
    ordered = [task for call in calls for task in builder.call(call, back=False)]
    for i, call in enumerate(reversed(calls)):
        ordered += builder.call(call, back=True)
        ordered += [builder.sum(number) for number, bucket in enumerate(filled) if bucket.done == i]
    return (*ordered, Task("update", "update", parts.update, ranks=parts.updates))


def sums(parts: Parts) -> tuple[gradient_buckets.SumBucket, ...]:
    """The gradient sums of one step, in order; their places in backward count the end of forward as 0, the last call as 1."""
    last = len(parts.nodes)
    done = {node.name: last - i for i, node in enumerate(parts.nodes)}
    return gradient_buckets.fill(list(_gradients(parts, done, last)))


@dataclass(slots=True)
class _Call:
    """A call with the conversions made before and behind it, and how often. One without a call stands for the end of forward."""

    node: NodePlan | None
    before: list[tuple[ConversionPlan, int]] = field(default_factory=list)
    behind: list[tuple[ConversionPlan, int]] = field(default_factory=list)


def _placed(parts: Parts) -> tuple[_Call, ...]:
    calls = [_Call(node) for node in parts.nodes]
    end = _Call(None)
    place = {node.name: i for i, node in enumerate(parts.nodes)}
    blocks = {
        prefix: [_inside(parts.nodes, f"{prefix}.{member}") for member in members] for prefix, members in parts.repeats
    }
    for conversion in parts.conversions:
        at, behind = _place(conversion, parts.nodes, place, blocks)
        if at is None:
            end.before.append((conversion, conversion.times))
        else:
            for where, times in _every(at, conversion.times, list(blocks.values())):
                (calls[where].behind if behind else calls[where].before).append((conversion, times))
    return (*calls, end)


def _place(
    conversion: ConversionPlan, nodes: Sequence[NodePlan], place: dict[str, int], blocks: dict[str, list[list[int]]]
) -> tuple[int | None, bool]:
    """(the call, whether behind it), None for the end of forward."""
    if conversion.consumers:
        return min(place[name] for name in conversion.consumers), False
    if blocks.get(conversion.module) and blocks[conversion.module][0]:
        return blocks[conversion.module][0][0], False
    if conversion.module and conversion.value in place:
        return place[conversion.value], True
    inside = _inside(nodes, conversion.module) if conversion.module else []
    return (inside[-1], True) if inside else (None, False)


def _every(at: int, times: int, blocks: Sequence[Sequence[Sequence[int]]]) -> list[tuple[int, int]]:
    """The same place in every block, for what takes place in all of them; as often at the one place otherwise.

    What takes place several times in a block, for each micro-batch, does so at once, as its call does.
    """
    for members in blocks:
        if members and times % len(members) == 0 and at in members[0] and len({len(block) for block in members}) == 1:
            return [(block[members[0].index(at)], times // len(members)) for block in members]
    return [(at, times)]


def _inside(nodes: Sequence[NodePlan], path: str) -> list[int]:
    return [i for i, node in enumerate(nodes) if node.within(path)]


def _gradients(parts: Parts, done: dict[str, int], last: int) -> Iterator[gradient_buckets.Gradient]:
    for parameter in parts.parameters:
        if parameter.kind == "parameter":
            layouts = tuple(map(parse_layout, parameter.layouts))
            axes = summed_axes(layouts, parts.grid)
            size = local_bytes(parameter.shape, ITEMSIZE[parameter.dtype], layouts, parts.grid)
            complete = max((done[name] for name in parameter.readers), default=last)
            yield gradient_buckets.Gradient(parameter.name, axes, parameter.dtype, size, complete)


@dataclass(frozen=True, slots=True)
class _ScheduleBuilder:
    parts: Parts
    filled: Sequence[gradient_buckets.SumBucket]

    def call(self, call: _Call, *, back: bool) -> Iterator[Task]:
        """A call between its conversions; `back`: its backward, all of that in reverse."""
        first, last = (call.behind[::-1], call.before[::-1]) if back else (call.before, call.behind)
        yield from (
            self.exchange(item, item.value, _detail(call.node or item), times, back=back) for item, times in first
        )
        if call.node:
            kind, seconds = ("backward", call.node.seconds_backward) if back else ("forward", call.node.seconds_forward)
            yield from self.inside(call.node, halos=not back, back=back)
            yield Task(call.node.name, kind, seconds, detail=_detail(call.node), ranks=call.node.ranks)
            yield from self.inside(call.node, halos=back, back=back)
        yield from (
            self.exchange(item, item.value, _detail(call.node or item), times, back=back) for item, times in last
        )

    def inside(self, node: NodePlan, *, halos: bool, back: bool) -> Iterator[Task]:
        """What a call exchanges itself."""
        chosen = [inner for inner in node.inner if (inner.primitive == "halo") == halos]
        for inner in reversed(chosen) if back else chosen:
            yield self.exchange(inner, f"{node.name} {inner.primitive}", _detail(node), back=back)

    def exchange(
        self, conversion: ConversionPlan | InnerPlan, name: str, detail: str, times: int = 1, *, back: bool
    ) -> Task:
        """A primitive or its adjoint, so many times; where it sends nothing it is a copy inside the rank."""
        grid = self.parts.grid
        axis = grid.names.index(conversion.axis)
        seconds = times * (conversion.seconds_adjoint if back else conversion.seconds_forward)
        sends = (conversion.bytes_adjoint if back else conversion.bytes_forward) > 0 and grid.sizes[axis] > 1
        axes = (axis,) if sends else ()
        hinders = sends and any(
            gradient_buckets.shared(bucket, axes, grid, self.parts.machine) for bucket in self.filled
        )
        near = conversion.primitive == "halo"
        return Task(name, "communication", seconds, axes=axes, near=near, hinders=hinders, detail=detail)

    def sum(self, number: int) -> Task:
        """One bucket's sum."""
        bucket = self.filled[number]
        here, hidden = gradient_buckets.seconds(bucket, self.parts.grid, self.parts.machine)
        members = f"{bucket.members[0]} to {bucket.members[-1]}" if len(bucket.members) > 1 else bucket.members[0]
        return Task(f"bucket {number}", "gradients", here, hidden, axes=bucket.axes, detail=members)


def _detail(plan: NodePlan | ConversionPlan) -> str:
    source = plan.source if isinstance(plan, NodePlan) else ""
    return "  ".join(part for part in (plan.module, source) if part)
