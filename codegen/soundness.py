"""Executes the steps of all ranks symbolically and proves them sound before a program is written.

Two things are proved. Types: every step reads tensors that are held in exactly the layouts it asks for, every call does what its
rule allows, every conversion is a legal cell of the table, and where gradients flow no call reads one meaning of whole and makes
the other, whatever its rule says, so Replicate and Copied are never mixed. Order: every collective is
entered by all ranks of its axis in one order, so that no rank waits for one that does not come.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autopar.codegen.steps import Convert, LocalValue, Loop, LoweredProgram, Run, Step, Update, running
from autopar.ir.conversions import primitive_of
from autopar.ir.grid import GridShape
from autopar.ir.layout import Layouts, Partial, Replicate, Shard, muddles
from autopar.ops.record.rule import choices


class UnsoundProgram(AssertionError):
    """The steps are not a correct SPMD program: a mistake of the compiler, never of the user. `call` names the one at fault."""

    def __init__(self, message: str, call: str = "") -> None:
        super().__init__(message)
        self.call = call


@dataclass(frozen=True, slots=True)
class CollectiveEntry:
    """One rank's entry into a collective: which, over which axis, for what. Ranks of a group must agree in all of it."""

    primitive: str
    axis: int
    subject: tuple[object, ...]


def check(program: LoweredProgram, storage: Mapping[str, Layouts], grid: GridShape) -> None:
    """Raise UnsoundProgram unless the steps are sound on every rank of the grid."""
    held = {LocalValue(name, layouts) for name, layouts in storage.items()}
    _check_types(program.steps, held, storage)
    if program.loss not in held or any(not isinstance(layout, Replicate) for layout in program.loss.layouts):
        raise UnsoundProgram(f"the loss is returned as {program.loss}, which is not held whole on every rank")
    missing = [output for output in program.outputs if output not in held]
    if missing or any(isinstance(layout, Partial) for output in program.outputs for layout in output.layouts):
        raise UnsoundProgram(f"the outputs are returned as {program.outputs}, of which {missing} are not made")
    entered = events(program)  # the same steps on every rank: what differs is whom a rank meets
    check_order(dict.fromkeys(itertools.product(*map(range, grid.sizes)), entered))


def _check_types(steps: Sequence[Step], held: set[LocalValue], storage: Mapping[str, Layouts]) -> None:
    for step in steps:
        reads = step.reads if isinstance(step.reads, tuple) else (step.reads,)
        missing = [read for read in reads if read not in held]
        if missing:
            raise UnsoundProgram(f"{_name(step)} reads {missing}, which nothing has made before")
        if isinstance(step, Run):
            _check_call(step)
            _check_in_place(step, storage)
            held |= set(filter(None, step.writes))
        elif isinstance(step, Convert):
            _check_conversion(step)
            held.add(step.writes)
        elif isinstance(step, Update):
            if step.reads.layouts != storage[step.stored]:
                raise UnsoundProgram(f"buffer {step.buffer} lies as {storage[step.stored]} and takes {step.reads}")
        else:
            _check_loop(step, storage)
            held |= set(step.writes)


def _check_call(step: Run) -> None:
    """`_check_run`, and whose call it is that is unsound: that one could run whole."""
    try:
        _check_run(step)
    except UnsoundProgram as error:
        raise UnsoundProgram(str(error), step.annotated.node.name) from None


def _check_run(step: Run) -> None:
    item = step.annotated
    for axis, choice in enumerate(step.strategy):
        if choice not in choices(item.rule, item.call, {choice.letter: [(choice.blocks, choice.unit)]}):
            raise UnsoundProgram(f"{item.node.name} may not do {choice} on axis {axis}")
        for i, read in enumerate(step.reads):
            if read.layouts[axis] != choice.operands[i]:
                raise UnsoundProgram(f"{item.node.name} wants {choice.operands[i]} on axis {axis} and reads {read}")
        for i, written in enumerate(step.writes):
            if written is not None and written.layouts[axis] != choice.results[i]:
                raise UnsoundProgram(f"{item.node.name} yields {choice.results[i]} on axis {axis}, not {written}")
    _check_meanings(step)


def _check_meanings(step: Run) -> None:
    """Where gradients flow, Replicate and Copied are not mixed, whatever the record says: layouts alone are looked at."""
    call = step.annotated.call
    read_layouts = [read.layouts for read, value in zip(step.reads, call.operands, strict=True) if value.differentiable]
    written = zip(step.writes, call.results, strict=True)
    written_layouts = [result.layouts for result, value in written if result is not None and value.differentiable]
    for axis in range(len(step.strategy)):
        before, behind = [layouts[axis] for layouts in read_layouts], [layouts[axis] for layouts in written_layouts]
        if muddles(before, behind):
            shown = f"{', '.join(map(str, before))} and makes {', '.join(map(str, behind))}"
            raise UnsoundProgram(f"{_name(step)} on axis {axis} reads {shown}: gradients of another meaning")


def _check_in_place(step: Run, storage: Mapping[str, Layouts]) -> None:
    """A batch norm changes its running statistics where they are stored, so it reads no converted copy of them."""
    for name in running(step):
        operand = next(held for held in step.reads if held.value == name)
        if operand.layouts != storage.get(name, operand.layouts):
            raise UnsoundProgram(f"{step.annotated.node.name} changes a copy of {name}, which lies as {storage[name]}")


def _check_conversion(step: Convert) -> None:
    primitive, axis = step.conversion.primitive, step.conversion.axis
    before, after = step.conversion.before, step.conversion.after
    if (step.reads.layouts, step.writes.layouts) != (before, after):
        raise UnsoundProgram(f"{primitive} of {step.reads.value} is given {step.reads} and makes {step.writes}")
    differ = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    if differ != [axis] or primitive_of(before[axis], after[axis]) != primitive:
        raise UnsoundProgram(f"{primitive} over axis {axis} does not turn {before} into {after}")
    inside = {layout for layout in after[axis + 1 :] if isinstance(layout, Shard)}
    if inside & {before[axis], after[axis]}:
        raise UnsoundProgram(f"{primitive} over axis {axis} of {before}: an inner axis cuts what it moves")


def _check_loop(step: Loop, storage: Mapping[str, Layouts]) -> None:
    for entry, argument in zip(step.entries, step.reads, strict=True):
        if entry.layouts != argument.layouts:
            raise UnsoundProgram(f"the loop over {step.repeat.prefix} is given {argument} for {entry}")
    inside = {LocalValue(name, layouts) for name, layouts in storage.items()} | set(step.entries)
    _check_types(step.body, inside, storage)
    if not set(step.outputs) <= inside:
        raise UnsoundProgram(f"a block of {step.repeat.prefix} does not make {step.outputs}")
    if [output.layouts for output in step.outputs] != [written.layouts for written in step.writes]:
        raise UnsoundProgram(f"the loop over {step.repeat.prefix} makes {step.outputs} and hands on {step.writes}")
    for nodes in step.repeat.nodes[1:]:
        for node, first in zip(nodes, step.repeat.nodes[0], strict=True):
            for name, stands_for in zip(node.inputs, first.inputs, strict=True):
                if name in storage and storage[name] != storage[stands_for]:
                    raise UnsoundProgram(
                        f"{name} lies as {storage[name]}, and {stands_for} of the first block otherwise"
                    )
    for entry_at, output_at in step.carried:
        if step.entries[entry_at].layouts != step.outputs[output_at].layouts:
            raise UnsoundProgram(f"a block of {step.repeat.prefix} hands on another layout than the next one takes")


def _name(step: Step) -> str:
    if isinstance(step, Run):
        return step.annotated.node.name
    return step.conversion.primitive if isinstance(step, Convert) else type(step).__name__.lower()


def events(program: LoweredProgram) -> list[CollectiveEntry]:
    """The collectives that a rank enters in the forward pass, in order; backward enters their adjoints in reverse."""
    return list(_events(program.steps, ()))


def _events(steps: Sequence[Step], path: tuple[object, ...]) -> list[CollectiveEntry]:
    entries: list[CollectiveEntry] = []
    for step in steps:
        if isinstance(step, Convert):
            subject = (*path, step.reads.value, step.conversion.before, step.conversion.after)
            entries.append(CollectiveEntry(step.conversion.primitive, step.conversion.axis, subject))
        elif isinstance(step, Loop):
            for member in step.repeat.members:
                entries += _events(step.body, (*path, member))
        elif isinstance(step, Run):
            rule = step.annotated.rule
            for axis, choice in enumerate(step.strategy):
                if choice.mode == "split" and (choice.letter in rule.windows or choice.letter in rule.whole):
                    entries.append(
                        CollectiveEntry(step.annotated.op.name, axis, (*path, step.annotated.node.name, choice.letter))
                    )
    return entries


Group = tuple[int, tuple[int, ...]]  # an axis, and what its ranks have in common: their other coordinates
_SHOWN = 16  # ranks in a message


def check_order(by_rank: Mapping[tuple[int, ...], Sequence[CollectiveEntry]]) -> None:
    """Let all ranks run: a group goes on when each of its ranks stands at the same collective.

    Every rank waits in one place at a time, so the work is proportional to the number of entries.
    """
    sizes: dict[Group, int] = {}
    for rank in by_rank:
        for axis in range(len(rank)):
            sizes[_group(rank, axis)] = sizes.get(_group(rank, axis), 0) + 1
    at = dict.fromkeys(by_rank, 0)
    waiting: dict[Group, list[tuple[int, ...]]] = {group: [] for group in sizes}
    running = list(by_rank)
    while running:
        rank = running.pop()
        queue = by_rank[rank]
        if at[rank] == len(queue):
            continue
        event = queue[at[rank]]
        group = _group(rank, event.axis)
        waiting[group].append(rank)
        if len(waiting[group]) == sizes[group] and _alike(event, (by_rank[peer][at[peer]] for peer in waiting[group])):
            for peer in waiting[group]:
                at[peer] += 1
            running += waiting[group]
            waiting[group] = []
    stuck = {rank: queue[at[rank]] for rank, queue in by_rank.items() if at[rank] < len(queue)}
    if stuck:
        waits = "\n".join(f"  rank {rank} waits in {event}" for rank, event in sorted(stuck.items())[:_SHOWN])
        more = f"\n  and {len(stuck) - _SHOWN} ranks more" if len(stuck) > _SHOWN else ""
        raise UnsoundProgram(f"ranks wait for each other:\n{waits}{more}")


def _group(rank: tuple[int, ...], axis: int) -> Group:
    return axis, rank[:axis] + rank[axis + 1 :]


def _alike(event: CollectiveEntry, others: Iterable[CollectiveEntry]) -> bool:
    return all(other is event or other == event for other in others)
