"""One training step of a divided graph: this position's actions, in the order of its list.

F  takes what the segment reads: its part of the inputs, what another segment of this position has made, or what another
   position has sent. What it writes goes out at once to the positions that read it.
B  has the gradients of what the segment wrote from all who read it, summed in the order of the readers, runs backward, and
   sends the gradients of what the segment read.
W  computes the gradients of weights that B has left.

Receives are posted some actions ahead, sends wait for nobody, and shapes follow from the plan: nothing is exchanged to
agree on them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autopar.ir.pipeline.schedule import Action
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters.precision import precise
from autopar.runtime.parameters.shards import local_shape
from autopar.runtime.pipeline.wiring import Crossing, Wiring
from autopar.runtime.program.namespace import Namespace
from autopar.runtime.transport.base import Comm, Work

_AHEAD = 3  # actions for which receives are posted

Drawing = Callable[[int | Sequence[int]], AbstractContextManager[object]]
"""Opens the step for the random calls of these numbers."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """This rank's parts of the inputs of one micro-batch, by name, and its rows on all ranks together."""

    inputs: Mapping[str, Tensor]
    rows: int


@dataclass(slots=True)
class _Arrival:
    """A tensor that is to come, or has."""

    tensor: Tensor
    work: Work

    def take(self) -> Tensor:
        self.work.wait()
        return self.tensor


@dataclass(slots=True)
class _SegmentRun:
    """A segment's forward of one micro-batch, until its backward: what it read as leaves, and what it wrote."""

    leaves: dict[str, Tensor]
    results: dict[str, Tensor]


@dataclass(slots=True)
class _StepState:
    """What one step has under way on this position."""

    batches: Sequence[MicroBatch]
    namespace: Namespace
    drawing: Drawing
    seed: float
    trains: bool
    runs: dict[tuple[int, int], _SegmentRun] = field(default_factory=dict)  # by segment and micro-batch
    held: dict[tuple[str, int], Tensor] = field(default_factory=dict)  # of other segments, by name and micro-batch
    gradients: dict[tuple[str, int], dict[int, Tensor]] = field(default_factory=dict)  # per reader
    coming: dict[tuple[str, int, int], _Arrival] = field(default_factory=dict)  # by name, micro-batch and sender
    sent: deque[tuple[Tensor, Work]] = field(default_factory=deque)
    returned: dict[str, list[Tensor]] = field(default_factory=dict)


class Executor:
    """This rank's part of the actions of a checked pipeline."""

    def __init__(self, grid: Grid, wires: Wiring, rows: int, dtype: torch.dtype | None) -> None:
        assert grid.place is not None
        self._grid = grid
        self._comm: Comm = grid.place.comm
        self._at = grid.place.index
        self._wires = wires
        self._rows = rows  # that the plan was made for
        self._dtype = dtype

    def run(
        self, batches: Sequence[MicroBatch], namespace: Namespace, drawing: Drawing, seed: float, trains: bool
    ) -> dict[str, list[Tensor]]:
        """Carry out a step; what this position makes of what the program returns, per micro-batch, by name.

        `seed` is the gradient of the loss; unless it `trains`, only forward runs.
        """
        step = _StepState(batches, namespace, drawing, seed, trains)
        kinds = "FBW" if step.trains else "F"
        actions = [
            action
            for action in self._wires.lists[self._at]
            if action.kind in kinds and action.microbatch < len(step.batches)
        ]
        posted = 0
        for i, action in enumerate(actions):
            while posted < min(len(actions), i + _AHEAD):
                self._post(step, actions[posted])
                posted += 1
            with torch.set_grad_enabled(step.trains):
                self._carry_out(step, action)
            while step.sent and step.sent[0][1].test():
                step.sent.popleft()
        for _, work in step.sent:
            work.wait()
        return step.returned

    def _carry_out(self, step: _StepState, action: Action) -> None:
        if action.kind == "F":
            self._forward(step, action)
        elif action.kind == "B":
            self._backward(step, action)

    def _forward(self, step: _StepState, action: Action) -> None:
        segment, m = self._wires.segments[action.segment], action.microbatch
        leaves = {name: self._leaf(step, name, m) for name in segment.reads if name in self._wires.edges}
        arguments = [leaves[name] if name in leaves else step.batches[m].inputs[name] for name in segment.reads]
        with step.drawing(segment.draws):
            written = segment.function(step.namespace, *arguments)
        tensors = (written,) if isinstance(written, Tensor) else written
        results = dict(zip(segment.writes, tensors, strict=True))
        for name, tensor in results.items():
            if name in self._wires.returns:
                step.returned.setdefault(name, []).append(tensor.detach())
            if name in self._wires.edges:
                self._hand_on(step, self._wires.edges[name], m, tensor)
        if step.trains:
            step.runs[action.segment, m] = _SegmentRun(leaves, results)

    def _backward(self, step: _StepState, action: Action) -> None:
        m, run = action.microbatch, step.runs.pop((action.segment, action.microbatch))
        roots, seeds = [], []
        for name, tensor in run.results.items():
            gradient = self._gradient(step, name, m, tensor)
            if gradient is not None and tensor.requires_grad:
                roots.append(tensor)
                seeds.append(gradient)
        if roots:
            torch.autograd.backward(roots, seeds)
        for name, leaf in run.leaves.items():
            edge = self._wires.edges[name]
            if edge.spec.differentiable:
                own = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
                step.gradients.setdefault((name, m), {})[action.segment] = own
                self._send_back(step, edge, m)

    def _leaf(self, step: _StepState, name: str, m: int) -> Tensor:
        """What a segment reads, apart from whoever made it."""
        edge = self._wires.edges[name]
        if (name, m) not in step.held:
            step.held[name, m] = step.coming.pop((name, m, edge.position)).take()
        leaf = step.held[name, m].detach()
        return leaf.requires_grad_(edge.spec.differentiable and step.trains)

    def _hand_on(self, step: _StepState, edge: Crossing, m: int, tensor: Tensor) -> None:
        if self._wires.read_here(self._at, edge):
            step.held[edge.spec.name, m] = tensor.detach()
        for position in edge.others:
            self._send(step, edge, m, tensor.detach().contiguous(), position, back=False)

    def _gradient(self, step: _StepState, name: str, m: int, tensor: Tensor) -> Tensor | None:
        """The gradient of what a segment wrote: its seed, if it is the loss, and what all readers send back."""
        parts = [torch.full_like(tensor, step.seed)] if name == self._wires.returns[0] else []
        edge = self._wires.edges.get(name)
        if edge is not None and edge.spec.differentiable:
            here = step.gradients.pop((name, m), {})
            parts += [here[segment] for segment in sorted(here)]
            parts += [step.coming.pop((name, m, position)).take() for position in edge.others]
            step.held.pop((name, m), None)
        return sum(parts[1:], parts[0]) if parts else None

    def _send_back(self, step: _StepState, edge: Crossing, m: int) -> None:
        """Send a gradient to where the value came from, once all segments of this position that read it have theirs."""
        key, readers = (edge.spec.name, m), self._wires.read_here(self._at, edge)
        if edge.position == self._at or len(step.gradients[key]) < len(readers):
            return
        first, *others = (step.gradients[key][segment] for segment in readers)
        del step.gradients[key], step.held[key]
        self._send(step, edge, m, sum(others, first).contiguous(), edge.position, back=True)

    def _send(self, step: _StepState, edge: Crossing, m: int, tensor: Tensor, to: int, *, back: bool) -> None:
        work = self._comm.start_send(tensor, to, self._tag(edge, m, back), _what(edge, m, back))
        step.sent.append((tensor, work))

    def _post(self, step: _StepState, action: Action) -> None:
        """Begin to receive what an action needs of other positions."""
        m, segment = action.microbatch, self._wires.segments[action.segment]
        if action.kind == "F":
            for name in segment.reads:
                edge = self._wires.edges.get(name)
                known = (name, m) in step.held or edge is None or (name, m, edge.position) in step.coming
                if edge is not None and edge.position != self._at and not known:
                    self._receive(step, edge, m, edge.position, back=False)
        elif action.kind == "B":
            for name in segment.writes:
                edge = self._wires.edges.get(name)
                if edge is not None and edge.spec.differentiable:
                    for position in edge.others:
                        self._receive(step, edge, m, position, back=True)

    def _receive(self, step: _StepState, edge: Crossing, m: int, source: int, *, back: bool) -> None:
        spec, rows = edge.spec, step.batches[m].rows
        whole = [n * rows // self._rows if dim in spec.rows else n for dim, n in enumerate(spec.shape)]
        shape = local_shape(whole, edge.layouts, self._grid.axes)
        room = torch.empty(shape, dtype=precise(spec.dtype, self._dtype))
        work = self._comm.start_receive(room, source, self._tag(edge, m, back), _what(edge, m, back))
        step.coming[spec.name, m, source] = _Arrival(room, work)

    def _tag(self, edge: Crossing, m: int, back: bool) -> int:
        return 2 * (edge.number * self._wires.microbatches + m) + back


def _what(edge: Crossing, m: int, back: bool) -> str:
    return f"the gradient of {edge.spec.name} of micro-batch {m}" if back else f"{edge.spec.name} of micro-batch {m}"
