"""Segments of a divided graph -> what each holds for a micro-batch, from its first call to the end of its backward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from autopar.codegen.liveness import HeldMemory, HeldTensor, Walk
from autopar.codegen.statements import Style, path_text
from autopar.codegen.steps import LocalValue, LoweredSegment
from autopar.costmodel import memory
from autopar.partitioner.formulation.priced_problem import Decision, PricedProblem
from autopar.partitioner.schedules.position_memory import ReadMemory, SegmentMemory, WrittenMemory


def segment_memory(
    built: PricedProblem,
    decision: Decision,
    segment: LoweredSegment,
    named: Callable[[LocalValue], str],
    deferred: Collection[str] = (),
) -> SegmentMemory:
    """The walk through a segment; `named` says what a tensor is called outside of it.

    `deferred` are calls whose weight gradients are an action of their own.
    """
    graph = built.graph
    paths = {item.value: path_text(item.name) for item in graph.parameters}
    style = Style(graph, tuple(name.upper() for name in built.grid.names), paths, defaultdict(lambda: "block"))
    walk = Walk(built, decision, style, aside=True, deferred=frozenset(deferred))
    given = {item.value for item in graph.inputs}
    tensors = {held: walk.stored(held, {}) if held.value in given else walk.enter(held) for held in segment.reads}
    entered = {held: tensor for held, tensor in tensors.items() if held.value not in given}
    walk.function(segment.steps, {held: held.value for held in segment.reads}, tensors, segment.writes, {})
    walk.clock = walk.clock or 1  # a segment of views alone has an F and a B all the same
    left = {held: tensors[held] for held in segment.writes}
    walk.hold(list(entered.values()))
    walk.leave(list(left.values()))
    walk.backward()
    reads = {named(held): _read(walk, tensor) for held, tensor in entered.items()}
    outside = {id(tensor.memory) for tensor in entered.values()}
    writes = {named(held): _written(walk, tensor, outside) for held, tensor in left.items()}
    apart = {*outside, *(id(tensor.memory) for tensor in left.values())}
    apart |= {id(tensor.slot.memory) for tensor in entered.values() if tensor.slot is not None}
    return _record(walk, [region for region in walk.memories if id(region) not in apart], reads, writes)


def _read(walk: Walk, tensor: HeldTensor) -> ReadMemory:
    n, slot = walk.clock, tensor.slot
    made = slot.memory.start if slot is not None and slot.memory is not None else 2 * n
    return ReadMemory(tensor.nbytes, _kept(tensor.memory, n), made)


def _written(walk: Walk, tensor: HeldTensor, outside: Collection[int]) -> WrittenMemory:
    n, slot, region = walk.clock, tensor.slot, tensor.memory
    used = slot.memory.end if slot is not None and slot.memory is not None else n
    if region is None or id(region) in outside:  # an input, or what another segment has made, as it is
        return WrittenMemory(-1, 0, 0, 0, used)
    number = next(i for i, one in enumerate(walk.memories) if one is region)
    return WrittenMemory(number, region.nbytes, region.start, _kept(region, n), used)


def _kept(region: HeldMemory | None, forward: int) -> int:
    """The time until which memory is kept for backward; 0 where it is not."""
    return region.end if region is not None and region.end > forward else 0


def _record(
    walk: Walk, inside: Sequence[HeldMemory], reads: Mapping[str, ReadMemory], writes: Mapping[str, WrittenMemory]
) -> SegmentMemory:
    """What is held inside, over time."""
    n, times = walk.clock, 2 * walk.clock + walk.behind
    held = [one.allocation for one in inside]
    return SegmentMemory(
        n,
        memory.timeline(held, times),
        memory.timeline([one for one in held if one.kind == "activations"], times),
        _across(held, n),
        _across(held, 2 * n),
        tuple((name, nbytes, at) for name, (nbytes, at) in walk.births.items()),
        reads,
        writes,
    )


def _across(held: Sequence[memory.Allocation], time: int) -> int:
    """Bytes that are held before a time and at it."""
    return sum(one.nbytes for one in held if one.start < time < one.end)
