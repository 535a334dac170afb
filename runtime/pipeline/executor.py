"""One training step of a divided graph: this position's actions, in the order of its list.

F  takes what the segment reads: its part of the inputs, what another segment of this position has made, or what another
   position has sent. What it writes goes out at once to the positions that read it.
B  has the gradients of what the segment wrote from all who read it, summed in the order of the readers, runs backward, and
   sends the gradients of what the segment read.
W  computes the gradients of weights that B has left (`deferred_weights`).

Shapes follow from the plan: nothing is exchanged to agree on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from autopar.ir.pipeline.schedule import Action
from autopar.runtime.grid.counter_rng import DrawnTensor, Draws
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters.precision import precise
from autopar.runtime.parameters.shards import local_shape
from autopar.runtime.pipeline.deferred_weights import DeferredWeights
from autopar.runtime.pipeline.messages import Mail, Message, needs
from autopar.runtime.pipeline.segment_ends import Entrance, Exit, roots_of
from autopar.runtime.pipeline.wiring import Crossing, Wiring
from autopar.runtime.program.namespace import Namespace
from autopar.runtime.program.pipeline import Segment


@dataclass(frozen=True, slots=True)
class SegmentInputs:
    """A micro-batch: this rank's parts of its inputs, by name, and its rows on all ranks together.

    `enter` lets the program's namespace speak of it, `drawing` opens the step's random numbers for some calls of it.
    """

    inputs: Mapping[str, Tensor]
    rows: int
    enter: Callable[[], None]
    drawing: Callable[[int | Sequence[int]], AbstractContextManager[Draws]]


class TimedAction(NamedTuple):
    """When a rank carried out an action, in seconds of `time.perf_counter`, and how long it waited for messages in it."""

    action: Action
    start: float
    end: float
    waited: float


@dataclass(slots=True)
class _SegmentRun:
    """A segment's forward of one micro-batch, until its backward: where gradients leave it and enter it, by name."""

    entrances: dict[str, Entrance]
    exits: dict[str, Exit]
    deferred: DeferredWeights | None


@dataclass(frozen=True, slots=True)
class StepResults:
    """What this position makes of what the program returns, by name and micro-batch, and what micro-batch 0 drew, by number."""

    returned: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    drawn: dict[int, DrawnTensor] = field(default_factory=dict)


@dataclass(slots=True)
class _StepUnderWay:
    """What one step has under way on this position."""

    batches: Sequence[SegmentInputs]
    namespace: Namespace
    trained: Sequence[Tensor]
    seed: float
    trains: bool
    mail: Mail
    results: StepResults = field(default_factory=StepResults)
    waited: float = 0.0
    runs: dict[tuple[int, int], _SegmentRun] = field(default_factory=dict)  # by segment and micro-batch
    deferred: dict[tuple[int, int], DeferredWeights] = field(default_factory=dict)
    held: dict[tuple[str, int], tuple[Tensor, int]] = field(
        default_factory=dict
    )  # and how often it is still to be read
    gradients: dict[tuple[str, int], dict[int, Tensor]] = field(default_factory=dict)  # of readers of this position


class Executor:
    """This rank's part of the actions of a checked pipeline; `rows` are those that its edges are described for."""

    def __init__(self, grid: Grid, wires: Wiring, rows: int, dtype: torch.dtype | None) -> None:
        assert grid.place is not None
        self._grid = grid
        self._comm = grid.place.comm
        self._at = grid.place.index
        self._wires = wires
        self._rows = rows
        self._dtype = dtype
        self._timeline: list[TimedAction] | None = None
        self.worked = [0.0] * len(wires.segments)  # wall seconds of each segment's actions here so far, without waits
        self._lists: dict[tuple[int, bool], tuple[list[Action], list[list[Message]]]] = {}

    @contextmanager
    def recording(self) -> Iterator[list[TimedAction]]:
        """Note the actions of all steps in this context in the list."""
        timeline = self._timeline = []
        try:
            yield timeline
        finally:
            self._timeline = None

    def run(
        self,
        batches: Sequence[SegmentInputs],
        namespace: Namespace,
        trained: Sequence[Tensor],
        seed: float,
        *,
        trains: bool,
    ) -> StepResults:
        """Carry out a step. `seed` is the gradient of the loss; unless it `trains`, only forward runs.

        Gradients of the leaves `trained`, of which the namespace is made, add up in their `grad`.
        """
        actions, needed = self._listed(len(batches), trains)
        device = device_of(batches[0].inputs)
        mail = Mail(
            self._comm,
            self._wires,
            needed,
            lambda message: self._room(message, batches[message.microbatch].rows, device),
            lambda number: self.words(actions[number]),
        )
        step = _StepUnderWay(batches, namespace, trained, seed, trains, mail)
        for number, action in enumerate(actions):
            start, step.waited = time.perf_counter(), 0.0
            mail.post(number)
            with torch.set_grad_enabled(trains):
                self._carry_out(step, action)
            mail.look()
            end = time.perf_counter()
            self.worked[action.segment] += end - start - step.waited
            if self._timeline is not None:
                self._timeline.append(TimedAction(action, start, end, step.waited))
        mail.finish()
        left = [*step.held, *step.runs, *step.gradients, *step.deferred]
        assert not left, f"left over: {left}"
        return step.results

    def _listed(self, microbatches: int, trains: bool) -> tuple[list[Action], list[list[Message]]]:
        """This position's actions on so many micro-batches, and what each needs of other positions."""
        if (microbatches, trains) not in self._lists:
            kinds = "FBW" if trains else "F"
            actions = [a for a in self._wires.lists[self._at] if a.kind in kinds and a.microbatch < microbatches]
            self._lists[microbatches, trains] = actions, needs(self._wires, self._at, actions)
        return self._lists[microbatches, trains]

    def words(self, action: Action) -> str:
        """An action with the function of its segment: ``F0.3 (embed_to_h5)``."""
        return f"{action} ({self._wires.segments[action.segment].function.__name__})"

    def _carry_out(self, step: _StepUnderWay, action: Action) -> None:
        code = self._wires.segments[action.segment].function.__code__
        self._comm.note(f"the start of {self.words(action)}", code.co_filename, code.co_firstlineno)
        step.batches[action.microbatch].enter()  # for backward too: it may compute parts of forward again
        if action.kind == "F":
            self._forward(step, action)
        elif action.kind == "B":
            self._backward(step, action)
        else:
            step.deferred.pop((action.segment, action.microbatch)).finish()

    def _forward(self, step: _StepUnderWay, action: Action) -> None:
        segment, m = self._wires.segments[action.segment], action.microbatch
        entrances: dict[str, Entrance] = {}
        arguments = [self._argument(step, entrances, name, m) for name in segment.reads]
        deferred = None
        if step.trains and action.segment in self._wires.deferring:
            deferred = DeferredWeights(step.trained)
        with step.batches[m].drawing(segment.draws) as draws, deferred.watching() if deferred else nullcontext():
            written = segment.function(step.namespace, *arguments)
        if m == 0:
            step.results.drawn.update(zip(_numbers(segment, len(draws.drawn)), draws.drawn, strict=True))
        tensors = (written,) if isinstance(written, Tensor) else written
        exits: dict[str, Exit] = {}
        for name, tensor in zip(segment.writes, tensors, strict=True):
            if name in self._wires.returns:
                step.results.returned.setdefault(name, {})[m] = tensor.detach()
            if name in self._wires.edges:
                self._hand_on(step, action, self._wires.edges[name], tensor)
            if step.trains and tensor.requires_grad:
                exits[name] = Exit.of(tensor)
        if step.trains:
            step.runs[action.segment, m] = _SegmentRun(entrances, exits, deferred)

    def _backward(self, step: _StepUnderWay, action: Action) -> None:
        segment, m = self._wires.segments[action.segment], action.microbatch
        run, exits = step.runs.pop((action.segment, m)), []
        for name in segment.writes:
            gradient = self._gradient(step, name, m)
            if gradient is not None and name in run.exits:
                run.exits[name].place.append(gradient)
                exits.append(run.exits[name])
            del gradient  # its place alone has it
        if exits and run.deferred is not None:
            run.deferred.backward(*roots_of(exits))
        elif exits:
            torch.autograd.backward(*roots_of(exits))
        if run.deferred is not None:
            step.deferred[action.segment, m] = run.deferred
        for name, entrance in run.entrances.items():
            step.gradients.setdefault((name, m), {})[action.segment] = entrance.gradient()
            self._send_back(step, action, self._wires.edges[name])

    def _argument(self, step: _StepUnderWay, entrances: dict[str, Entrance], name: str, m: int) -> Tensor:
        """What a segment reads: an input, or apart from whoever made it what another segment wrote."""
        edge = self._wires.edges.get(name)
        if edge is None:
            return step.batches[m].inputs[name]
        if (name, m) in step.held:
            tensor, readers = step.held.pop((name, m))
        else:
            tensor = self._taken(step, Message(edge, m, edge.position, back=False))
            readers = len(self._wires.read_here(self._at, edge))
        if readers > 1:
            step.held[name, m] = tensor, readers - 1
        if not (edge.spec.differentiable and step.trains):
            return tensor.detach()
        entrances[name] = Entrance(tensor)
        return entrances[name].tensor(tensor)

    def _hand_on(self, step: _StepUnderWay, action: Action, edge: Crossing, tensor: Tensor) -> None:
        m, readers = action.microbatch, len(self._wires.read_here(self._at, edge))
        if readers:
            step.held[edge.spec.name, m] = tensor.detach(), readers
        for position in edge.others:
            step.mail.send(Message(edge, m, position, back=False), tensor, self.words(action))

    def _gradient(self, step: _StepUnderWay, name: str, m: int) -> Tensor | None:
        """The gradient of what a segment wrote: its seed, if it is the loss, and what all readers send back."""
        loss = name == self._wires.returns[0]
        parts = [torch.full_like(step.results.returned[name][m], step.seed)] if loss else []
        edge = self._wires.edges.get(name)
        if edge is None or not edge.spec.differentiable:
            return parts[0] if parts else None
        here = step.gradients.pop((name, m), {})
        parts += [here.pop(segment) for segment in sorted(here)]
        total = sum(parts[1:], parts[0]) if parts else None
        parts.clear()
        for position in edge.others:  # what has been received is nobody else's
            part = self._taken(step, Message(edge, m, position, back=True))
            total = part if total is None else torch.add(total, part, out=part)
        return total

    def _send_back(self, step: _StepUnderWay, action: Action, edge: Crossing) -> None:
        """Send a gradient to where the value came from, once all segments of this position that read it have theirs."""
        m, readers = action.microbatch, self._wires.read_here(self._at, edge)
        if edge.position == self._at or len(step.gradients[edge.spec.name, m]) < len(readers):
            return
        parts = step.gradients.pop((edge.spec.name, m))
        first, *others = (parts[segment] for segment in readers)
        step.mail.send(Message(edge, m, edge.position, back=True), sum(others, first), self.words(action))

    def _taken(self, step: _StepUnderWay, message: Message) -> Tensor:
        start = time.perf_counter()
        tensor = step.mail.take(message)
        step.waited += time.perf_counter() - start
        return tensor

    def _room(self, message: Message, rows: int, device: torch.device) -> Tensor:
        """An empty tensor for a message of a micro-batch of so many rows."""
        spec = message.edge.spec
        whole = [n * rows // self._rows if dim in spec.rows else n for dim, n in enumerate(spec.shape)]
        shape = local_shape(whole, message.edge.layouts, self._grid.axes)
        return torch.empty(shape, dtype=precise(spec.dtype, self._dtype), device=device)


def device_of(inputs: Mapping[str, Tensor]) -> torch.device:
    """Where a step computes: where its inputs are."""
    return next((tensor.device for tensor in inputs.values()), torch.device("cpu"))


def _numbers(segment: Segment, count: int) -> Sequence[int]:
    """The numbers of the random calls that a segment has made."""
    draws = segment.draws
    return range(draws, draws + count) if isinstance(draws, int) else draws[:count]
