"""The execution of a program with tensors as records: who holds which memory, from which step to which.

A line's results are held by its variables, what one call makes for another inside a line until that has run, and what autograd
keeps until the backward of the call. See `autopar.codegen.memory_footprint` for the rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autopar.codegen import naming
from autopar.codegen.statements import Line, Style, lines
from autopar.codegen.steps import Convert, LocalValue, Loop, Run, Step, running
from autopar.costmodel import memory
from autopar.costmodel.collectives import summed_axes
from autopar.costmodel.local_shapes import local_bytes
from autopar.ir.conversions import PRIMITIVES
from autopar.ir.graph import ITEMSIZE, Value
from autopar.ir.layout import Layouts, Shard
from autopar.partitioner.formulation.priced_problem import Decision, PricedProblem

_SAME = ("", "zeros")  # movements whose result is their operand, on the rank that keeps it too
_HANDING = (
    "add",
    "sub",
    "same",
)  # whose backward hands on the gradient that it gets; of a "cat" every operand has a part


@dataclass(slots=True)
class HeldMemory:
    """Memory that several tensors may share; `end` grows while holders are found."""

    name: str
    kind: str
    nbytes: int
    start: int
    end: int

    @property
    def allocation(self) -> memory.Allocation:
        """The record of it."""
        return memory.Allocation(self.name, self.start, self.end, self.nbytes, self.kind)


@dataclass(slots=True)
class _Kept:
    """Memory that autograd keeps for the backward of step `at`; where backward computes a block again, which ended at `closed`."""

    memory: HeldMemory
    at: int
    closed: int | None = None


@dataclass(slots=True)
class _Slot:
    """A gradient to be, of this `parameter` if it is one's (its value). One that leaves the function is `apart`."""

    nbytes: int
    parameter: str = ""
    apart: bool = False
    memory: HeldMemory | None = None
    shared: bool = False  # with the gradient that was handed on

    @property
    def partial(self) -> bool:
        """Whether it is a part of a larger gradient, and does not lie in one piece."""
        return self.shared and self.memory is not None and self.nbytes < self.memory.nbytes

    def copies(self, handed: _Slot) -> bool:
        """Whether it is a part of another gradient, which it would keep alive."""
        return self.apart and self.nbytes < handed.nbytes


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """What a variable holds: its memory (None for parameters and inputs), gradient, and how its elements lie.

    lies   "plain" in order, "mixed" not, "heads" as attention leaves it: in order once its middle dims are transposed
    """

    memory: HeldMemory | None
    slot: _Slot | None
    nbytes: int
    lies: str = "plain"


@dataclass(slots=True)
class _Back:
    """What one step's backward does: the slots of its results, of its operands, and bytes that come and go."""

    at: int
    results: list[_Slot]
    operands: list[tuple[_Slot, bool]]  # whether the gradient of the result is handed on
    scratch: int
    name: str


@dataclass(slots=True)
class Walk:
    """The execution of a program, or of a part of it whose gradients of parameters are put `aside`.

    They are held at their births alone, and `births` has the first of each. Those of `deferred` calls come behind all else.
    """

    built: PricedProblem
    decision: Decision
    style: Style
    aside: bool = False
    deferred: frozenset[str] = frozenset()
    clock: int = 0
    memories: list[HeldMemory] = field(default_factory=list)
    kept: list[_Kept] = field(default_factory=list)
    tape: list[_Back] = field(default_factory=list)
    slots: dict[str, _Slot] = field(default_factory=dict)  # of parameters, by value
    names: list[str] = field(default_factory=list)  # of the executed steps
    births: dict[str, tuple[int, int]] = field(default_factory=dict)  # by parameter: bytes and time
    behind: int = 0  # steps of what is deferred
    bodies: dict[int, tuple[list[Line], dict[LocalValue, str]]] = field(
        default_factory=dict
    )  # of functions, by identity

    def new(self, name: str, kind: str, nbytes: int) -> HeldMemory:
        """Memory that is held from now on, so far for this step only."""
        fresh = HeldMemory(name, kind, nbytes, self.clock, self.clock + 1)
        self.memories.append(fresh)
        return fresh

    def stored(self, held: LocalValue, block: Mapping[str, str]) -> HeldTensor:
        """A parameter, buffer or input."""
        name = block.get(held.value, held.value)
        value = self.built.graph.values[name]
        size = self.size(value, held.layouts)
        if value.differentiable and name not in self.slots:
            self.slots[name] = _Slot(size, name)
        return HeldTensor(None, self.slots.get(name), size)

    def enter(self, held: LocalValue) -> HeldTensor:
        """What another function has made."""
        value = self.built.graph.values[held.value]
        size = self.size(value, held.layouts)
        return HeldTensor(
            self.new(held.value, "activations", size), _Slot(size, apart=True) if value.differentiable else None, size
        )

    def leave(self, tensors: Sequence[HeldTensor]) -> None:
        """What another function reads: its gradient, which is not counted here, is there when backward begins."""
        self.hold(tensors)
        for slot in (tensor.slot for tensor in tensors):
            if slot is not None and slot.memory is None and not slot.parameter:
                slot.memory = HeldMemory("", "gradients", slot.nbytes, self.clock, self.clock)

    def size(self, value: Value, layouts: Layouts) -> int:
        """Local bytes of a value."""
        return local_bytes(value.shape, ITEMSIZE[value.dtype], layouts, self.built.grid)

    def function(
        self,
        steps: Sequence[Step],
        arguments: Mapping[LocalValue, str],
        tensors: dict[LocalValue, HeldTensor],
        outputs: Sequence[LocalValue],
        block: Mapping[str, str],
    ) -> None:
        """Run one function's lines; `tensors` are its variables, `block` says which parameters a later block has."""
        if id(steps) not in self.bodies:
            body = lines(steps, outputs, self.style)
            self.bodies[id(steps)] = body, naming.assign(body, arguments, outputs, {}, frozenset())
        body, named = self.bodies[id(steps)]
        variables = {name: tensors[held] for held, name in arguments.items()}
        for line in body:
            self.line(line, tensors, block)
            self.hold(list(variables.values()))  # also what a variable gives away now
            for held in filter(None, line.writes):
                variables[named[held]] = tensors[held]

    def hold(self, tensors: Sequence[HeldTensor]) -> None:
        """These are held up to now."""
        for tensor in tensors:
            if tensor.memory is not None:
                tensor.memory.end = max(tensor.memory.end, self.clock)

    def line(self, line: Line, tensors: dict[LocalValue, HeldTensor], block: Mapping[str, str]) -> None:
        """Run a line's steps; what one makes for another of them lives until that has run."""
        for step in line.steps:
            for held in step.reads if isinstance(step.reads, tuple) else (step.reads,):
                if held not in tensors:
                    tensors[held] = self.stored(held, block)
                memory_read = tensors[held].memory
                if memory_read is not None:
                    memory_read.end = max(memory_read.end, self.clock + 1)
            if isinstance(step, Run):
                self.run(step, tensors)
            elif isinstance(step, Convert):
                self.convert(step, tensors)
            elif isinstance(step, Loop):
                self.loop(step, tensors)

    def loop(self, step: Loop, tensors: dict[LocalValue, HeldTensor]) -> None:
        """All rounds of a loop: what a block hands on enters the next."""
        entering = [tensors[held] for held in step.reads]
        arguments = {held: f"entry{i}" for i, held in enumerate(step.entries)}
        for parameters in _blocks(step):
            inside = dict(zip(step.entries, entering, strict=True))
            begun, before = self.clock, len(self.kept)
            self.function(step.body, arguments, inside, step.outputs, parameters)
            if step.recomputed:
                self.computed_again(entering, begun, before)
            self.hold(entering)  # the caller's variables hold what went in until they are assigned anew
            for entry, output in step.carried:
                entering[entry] = inside[step.outputs[output]]
            last = inside
        for held, inner in zip(step.writes, step.outputs, strict=True):
            tensors[held] = last[inner]

    def computed_again(self, entering: Sequence[HeldTensor], begun: int, before: int) -> None:
        """A block that backward computes again: what goes in is kept, and the rest is there anew from its backward on."""
        for kept in self.kept[before:]:
            if kept.memory.start >= begun:
                kept.closed = self.clock
        self.kept += [_Kept(tensor.memory, begun) for tensor in entering if tensor.memory is not None]

    def run(self, step: Run, tensors: dict[LocalValue, HeldTensor]) -> None:
        """A call."""
        item, grid = step.annotated, self.built.grid
        reads = [tensors[held] for held in step.reads]
        name = item.node.name
        view = self.view(step, reads)
        if view is not None:
            tensors.update(view)
            return
        results = []
        in_place = running(step)
        for i, held in enumerate(step.writes):
            if held is None or (i and in_place):
                continue
            value = self.built.graph.values[held.value]
            size = self.size(value, held.layouts)
            slot = _Slot(size) if value.differentiable else None
            lies = "heads" if item.op.work == "attention" else "plain"
            tensors[held] = HeldTensor(self.new(name, "transients", size), slot, size, lies)
            results.append(tensors[held])
        for i, held in enumerate(step.writes[1:]):
            if held is not None and in_place:
                tensors[held] = tensors[step.reads[-2 + i]]
        arguments = (item.call, item.rule, item.op, step.strategy, grid)
        ahead, back = memory.scratch_bytes(*arguments)
        if ahead:
            self.new(name, "transients", ahead)
        self.keep(step, tensors)
        self.back(name, results, reads, item.op.name, back)

    def keep(self, step: Run, tensors: Mapping[LocalValue, HeldTensor]) -> None:
        """What autograd keeps of a call."""
        item = step.annotated
        held = dict(zip((operand.name for operand in item.call.operands), step.reads, strict=True))
        held |= {written.value: written for written in filter(None, step.writes)}
        for name, size in memory.kept(item.call, item.rule, item.op, step.strategy, self.built.grid):
            kept = tensors[held[name]].memory if name else self.new(item.node.name, "activations", size)
            if kept is not None:
                kept.kind = "activations"
                self.kept.append(_Kept(kept, self.clock))

    def back(
        self, name: str, results: Sequence[HeldTensor], reads: Sequence[HeldTensor], operator: str, scratch: int
    ) -> None:
        """Note the backward of the step that has just run, and go on."""
        result_slots = [result.slot for result in results if result.slot is not None]
        if result_slots:
            whole, handing = result_slots[0].nbytes, operator in _HANDING
            operand_slots = [
                (read.slot, operator == "cat" or (handing and read.nbytes == whole)) for read in reads if read.slot
            ]
            self.tape.append(_Back(self.clock, result_slots, operand_slots, scratch, name))
        self.names.append(name)
        self.clock += 1

    def view(self, step: Run, reads: Sequence[HeldTensor]) -> dict[LocalValue, HeldTensor] | None:
        """The results of a view, which take no memory and, where they show all of it, no gradient of their own; else None."""
        item = step.annotated
        if item.op.work != "view" or not reads:
            return None
        source, tensors = reads[0], {}
        written = [held for held in step.writes if held is not None]
        target = item.node.target.split(".")[1]
        rank = len(item.call.operands[0].shape)
        for held in written:
            value = self.built.graph.values[held.value]
            size = self.size(value, held.layouts)
            lies = _lies(source.lies, target, rank, len(value.shape), size == source.nbytes)
            if lies is None:
                return None
            slot = source.slot
            if slot is not None and (size != source.nbytes or not value.differentiable):
                slot = _Slot(size) if value.differentiable else None
            tensors[held] = HeldTensor(source.memory, slot, size, lies)
        if any(tensor.slot is not source.slot for tensor in tensors.values()):
            self.back(item.node.name, list(tensors.values()), reads[:1], "", 0)
        return tensors

    def convert(self, step: Convert, tensors: dict[LocalValue, HeldTensor]) -> None:
        """A conversion; where parts do not lie in one piece, they are put together in a buffer."""
        conversion, source = step.conversion, tensors[step.reads]
        before, after = conversion.before[conversion.axis], conversion.after[conversion.axis]
        value = self.built.graph.values[step.writes.value]
        size = self.size(value, conversion.after)
        row = PRIMITIVES[conversion.primitive]
        same = row.forward in _SAME or (row.forward == "slice" and _in_one_piece(value, after))
        name = f"{conversion.primitive} of {step.writes.value}"
        converted = source.memory if same else self.new(name, "transients", size)
        slot = _Slot(size) if value.differentiable else None
        tensors[step.writes] = HeldTensor(converted, slot, size)
        apart = not same and not _in_one_piece(value, *(x for x in (after, before) if isinstance(x, Shard)))
        if apart and row.forward not in ("sum", "slice"):
            self.new(name, "buffers", max(size, source.nbytes))
        scratch = max(size, source.nbytes) if apart and row.forward != "sum" else 0
        self.back(name, [tensors[step.writes]], [source], "same" * (row.adjoint in _SAME), scratch)

    def backward(self) -> None:
        """The second half: what was kept is let go, gradients come and go."""
        last = 2 * self.clock
        anew: dict[int, HeldMemory] = {}
        for kept in self.kept:
            if kept.closed is None:
                kept.memory.end = max(kept.memory.end, last - kept.at)
                continue
            first = last - kept.closed
            renewed = anew.setdefault(
                id(kept.memory), HeldMemory(kept.memory.name, "activations", kept.memory.nbytes, first, first + 1)
            )
            renewed.end = max(renewed.end, last - kept.at)
        self.memories += anew.values()
        for back in reversed(self.tape):
            at = last - 1 - back.at
            late = self.put_off(back) if back.name in self.deferred else at
            scratch = back.scratch + sum(slot.nbytes for slot in back.results if slot.partial)  # put in one piece
            for when in {at, late} if scratch else ():
                self.memories.append(HeldMemory(back.name, "transients", scratch, when, when + 1))
            for held in (slot.memory for slot in back.results if slot.memory is not None):
                held.end = max(held.end, late + 1)
            for slot, handed in back.operands:
                self.contribute(slot, back.results[0] if handed else None, late if slot.parameter else at, back.name)

    def put_off(self, back: _Back) -> int:
        """The time of a call's weight gradient; until then there is what it is computed from."""
        late = 2 * self.clock + self.behind
        self.behind += 1
        for kept in (one for one in self.kept if one.at == back.at):
            kept.memory.end = max(kept.memory.end, late + 1)
        return late

    def contribute(self, slot: _Slot, handed: _Slot | None, at: int, name: str) -> None:
        """A gradient arrives: the first is taken, if need be as the memory that it is in; a later one is added to it."""
        if slot.parameter:
            stored = self.decision.storage[slot.parameter]
            stays = slot.memory is None and not self.aside and not summed_axes(stored, self.built.grid)
            self.births.setdefault(slot.parameter, (slot.nbytes, at))
            slot.memory = HeldMemory(
                slot.parameter, "gradients", slot.nbytes, at, 2 * self.clock + 1 if stays else at + 1
            )
            self.memories.append(slot.memory)
        elif slot.memory is None and handed is not None and handed.memory is not None and not slot.copies(handed):
            slot.memory, slot.shared = handed.memory, True
        elif slot.memory is None or slot.shared:
            slot.memory, slot.shared = HeldMemory(name, "transients", slot.nbytes, at, at + 1), False
            self.memories.append(slot.memory)
        elif handed is None:
            self.memories.append(HeldMemory(name, "transients", slot.nbytes, at, at + 1))


def _blocks(step: Loop) -> list[dict[str, str]]:
    """Per round of a loop: the parameters that take the place of the first block's."""
    first = step.repeat.nodes[0]
    return [
        {
            name: other
            for node, mine in zip(first, nodes, strict=True)
            for name, other in zip(node.inputs, mine.inputs, strict=True)
        }
        for nodes in step.repeat.nodes
    ]


def _lies(lies: str, target: str, before: int, after: int, all_of_it: bool) -> str | None:
    """How the elements of a view lie; None where what looks like a view has to copy."""
    if target in ("transpose", "permute", "t", "movedim", "swapaxes", "mT", "numpy_T"):
        return "plain" if lies == "heads" else "mixed"
    if all_of_it and after < before and lies != "plain":
        return None
    return lies if all_of_it else "mixed"


def _in_one_piece(value: Value, *layouts: object) -> bool:
    """Whether parts of a tensor lie one after another in its memory."""
    return all(
        isinstance(layout, Shard) and layout.blocks == 1 and math.prod(value.shape[: layout.dim]) == 1
        for layout in layouts
    )
