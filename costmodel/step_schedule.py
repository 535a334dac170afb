"""From a plan to the tasks of one training step, in the order in which its program carries them out.

Forward, the calls in order, each behind the conversions that are made for it; then backward, all of that in reverse with
the adjoints; after the backward of a call, the gradient buckets that it has filled; at the end the rest of them and the update.
Halos come before the call that needs them, sums of a call's distributed form behind it. Of repeated blocks the conversions
are listed once, for the first block, and take place in all. A conversion that is made for no call stands behind the call that makes
its value, or else in front of the block or behind the module that it is named for, or at the end (the loss).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from autopar.costmodel import gradient_buckets
from autopar.costmodel.local_shapes import local_bytes
from autopar.costmodel.timeline import Event, Task, simulate
from autopar.ir.graph import ITEMSIZE
from autopar.ir.grid import GridShape
from autopar.ir.layout import Copied, parse_layout
from autopar.ir.machine import Machine
from autopar.ir.plan import ConversionPlan, InnerPlan, NodePlan, Plan, TensorPlan


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a plan makes its timeline; `update` is in seconds."""

    grid: GridShape
    machine: Machine
    nodes: tuple[NodePlan, ...]
    conversions: tuple[ConversionPlan, ...]
    repeats: tuple[tuple[str, tuple[str, ...]], ...]
    parameters: tuple[TensorPlan, ...]
    update: float


def parts(plan: Plan) -> Parts:
    """What of a plan makes its timeline."""
    return Parts(
        GridShape.parse(plan.grid), plan.machine, plan.nodes, plan.conversions, plan.repeats, plan.parameters,
        plan.predicted.update,
    )  # fmt: skip


def of(plan: Plan) -> tuple[Task, ...]:
    """The tasks of one step of a plan."""
    return tasks(parts(plan))


def events(plan: Plan) -> tuple[Event, ...]:
    """What every rank does in one step, as predicted."""
    return simulate(of(plan)).events[0]


def tasks(parts: Parts) -> tuple[Task, ...]:
    """The tasks of one step."""
    calls, filled = _placed(parts), sums(parts)
    builder = _ScheduleBuilder(parts, filled)
    ordered = [task for call in calls for task in builder.forward(call)]
    for i, call in enumerate(reversed(calls)):
        ordered += builder.backward(call)
        ordered += [builder.sum(number) for number, bucket in enumerate(filled) if bucket.done == i]
    return (*ordered, Task("update", "update", parts.update))


def sums(parts: Parts) -> tuple[gradient_buckets.SumBucket, ...]:
    """The gradient sums of one step, in order; their places in backward count the end of forward as 0, the last call as 1."""
    last = len(parts.nodes)
    done = {node.name: last - i for i, node in enumerate(parts.nodes)}
    return gradient_buckets.fill(list(_gradients(parts, done, last)))


@dataclass(slots=True)
class _Call:
    """A call with the conversions made before and behind it. One without a call stands for the end of forward."""

    node: NodePlan | None
    before: list[ConversionPlan] = field(default_factory=list)
    behind: list[ConversionPlan] = field(default_factory=list)


def _placed(parts: Parts) -> tuple[_Call, ...]:
    calls = [_Call(node) for node in parts.nodes]
    end = _Call(None)
    place = {node.name: i for i, node in enumerate(parts.nodes)}
    blocks = {prefix: [_inside(parts.nodes, f"{prefix}.{one}") for one in members] for prefix, members in parts.repeats}
    for one in parts.conversions:
        at, behind = _place(one, parts.nodes, place, blocks)
        if at is None:
            end.before += [one] * one.times
        else:
            for where in _every(at, one.times, list(blocks.values())):
                (calls[where].behind if behind else calls[where].before).append(one)
    return (*calls, end)


def _place(
    one: ConversionPlan, nodes: Sequence[NodePlan], place: dict[str, int], blocks: dict[str, list[list[int]]]
) -> tuple[int | None, bool]:
    """(the call, whether behind it), None for the end of forward."""
    if one.consumers:
        return min(place[name] for name in one.consumers), False
    if blocks.get(one.module) and blocks[one.module][0]:
        return blocks[one.module][0][0], False
    if one.module and one.value in place:
        return place[one.value], True
    inside = _inside(nodes, one.module) if one.module else []
    return (inside[-1], True) if inside else (None, False)


def _every(at: int, times: int, blocks: Sequence[Sequence[Sequence[int]]]) -> list[int]:
    """The same place in every block, for what takes place in all of them; as often at the one place otherwise."""
    for members in blocks:
        if times == len(members) and at in members[0] and len({len(one) for one in members}) == 1:
            return [one[members[0].index(at)] for one in members]
    return [at] * times


def _inside(nodes: Sequence[NodePlan], path: str) -> list[int]:
    return [i for i, node in enumerate(nodes) if node.module == path or node.module.startswith(path + ".")]


def _gradients(parts: Parts, done: dict[str, int], last: int) -> Iterator[gradient_buckets.Gradient]:
    for one in parts.parameters:
        if one.kind == "parameter":
            layouts = tuple(map(parse_layout, one.layouts))
            axes = tuple(
                i for i, layout in enumerate(layouts) if isinstance(layout, Copied) and parts.grid.sizes[i] > 1
            )
            size = local_bytes(one.shape, ITEMSIZE[one.dtype], layouts, parts.grid)
            complete = max((done[name] for name in one.readers), default=last)
            yield gradient_buckets.Gradient(one.name, axes, one.dtype, size, complete)


@dataclass(frozen=True, slots=True)
class _ScheduleBuilder:
    parts: Parts
    filled: Sequence[gradient_buckets.SumBucket]

    def forward(self, one: _Call) -> Iterator[Task]:
        yield from (self.exchange(item, item.value, _detail(one.node or item), back=False) for item in one.before)
        if one.node:
            yield from self.inside(one.node, halos=True, back=False)
            yield Task(one.node.name, "forward", one.node.seconds_forward, detail=_detail(one.node))
            yield from self.inside(one.node, halos=False, back=False)
        yield from (self.exchange(item, item.value, _detail(one.node or item), back=False) for item in one.behind)

    def backward(self, one: _Call) -> Iterator[Task]:
        yield from (
            self.exchange(item, item.value, _detail(one.node or item), back=True) for item in reversed(one.behind)
        )
        if one.node:
            yield from self.inside(one.node, halos=False, back=True)
            yield Task(one.node.name, "backward", one.node.seconds_backward, detail=_detail(one.node))
            yield from self.inside(one.node, halos=True, back=True)
        yield from (
            self.exchange(item, item.value, _detail(one.node or item), back=True) for item in reversed(one.before)
        )

    def inside(self, node: NodePlan, *, halos: bool, back: bool) -> Iterator[Task]:
        """What a call exchanges itself."""
        chosen = [one for one in node.inner if (one.primitive == "halo") == halos]
        for one in reversed(chosen) if back else chosen:
            yield self.exchange(one, f"{node.name} {one.primitive}", _detail(node), back=back)

    def exchange(self, one: ConversionPlan | InnerPlan, name: str, detail: str, *, back: bool) -> Task:
        """A primitive or its adjoint; where it sends nothing it is a copy inside the rank."""
        grid = self.parts.grid
        axis = grid.names.index(one.axis)
        seconds = one.seconds_adjoint if back else one.seconds_forward
        sends = (one.bytes_adjoint if back else one.bytes_forward) > 0 and grid.sizes[axis] > 1
        axes = (axis,) if sends else ()
        hinders = sends and any(
            gradient_buckets.shared(bucket, axes, grid, self.parts.machine) for bucket in self.filled
        )
        return Task(
            name, "communication", seconds, axes=axes, near=one.primitive == "halo", hinders=hinders, detail=detail
        )

    def sum(self, number: int) -> Task:
        """One bucket's sum."""
        bucket = self.filled[number]
        here, hidden = gradient_buckets.seconds(bucket, self.parts.grid, self.parts.machine)
        members = f"{bucket.members[0]} to {bucket.members[-1]}" if len(bucket.members) > 1 else bucket.members[0]
        return Task(f"bucket {number}", "gradients", here, hidden, axes=bucket.axes, detail=members)


def _detail(one: NodePlan | ConversionPlan) -> str:
    source = one.source if isinstance(one, NodePlan) else ""
    return "  ".join(part for part in (one.module, source) if part)
