"""From the lines of a program to what a rank holds, and when: bytes over time, call by call.

A program of m executed steps (loops unrolled) computes step t at time t, its backward at 2m - 1 - t, and the optimizer
steps at 2m. A tensor is held by

    variables      from the line that makes it to the line that gives its variable away, or to the end of the function; inside
                   a line to the call that reads it
    autograd       until the backward of the last call that keeps it (`autopar.costmodel.memory.kept`)

and its gradient from the backward of its last reader to that of its maker. Views share the memory of what they look at, and
some backward passes hand on the gradient that they get. Parameters, their state and the buckets of gradients are held all the
time; a gradient that is summed in a bucket passes through memory of its own first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from autopar.codegen.liveness import Walk
from autopar.codegen.statements import Style, path_text
from autopar.codegen.steps import LocalValue, LoweredProgram
from autopar.costmodel import memory
from autopar.costmodel.collectives import summed_axes
from autopar.partitioner.formulation.priced_problem import Decision, PricedProblem, inputs_bytes

KINDS = ("inputs", "parameters", "gradients", "optimizer", "activations", "buffers", "transients")


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one rank holds over the steps of a program, and the names of the m steps that forward takes."""

    held: tuple[memory.Allocation, ...]
    names: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Forward, backward, and the optimizer's step."""
        return 2 * len(self.names) + 1

    @property
    def peak(self) -> int:
        """The most bytes held at once."""
        return memory.peak(self.held, self.steps)[0]

    @property
    def at(self) -> int:
        """The first step at which they are."""
        return memory.peak(self.held, self.steps)[1]

    def parts(self, at: int) -> dict[str, int]:
        """Bytes by kind at one step."""
        sizes = dict.fromkeys(KINDS, 0)
        for allocation in self.held:
            if allocation.start <= at < allocation.end:
                sizes[allocation.kind] += allocation.nbytes
        return sizes

    def where(self, at: int) -> str:
        """What runs at a step, in words."""
        count = len(self.names)
        if at >= 2 * count:
            return "the optimizer's step"
        return f"forward of {self.names[at]}" if at < count else f"backward of {self.names[2 * count - 1 - at]}"


def footprint(built: PricedProblem, decision: Decision, program: LoweredProgram, optimizer: str) -> Footprint:
    """What a rank holds through one training step: forward, backward and the step of `optimizer`.

    Inputs count as every rank is given them, whole or its parts; a step of several micro-batches keeps their gradients apart.
    Raises ConfigError for an unknown optimizer.
    """
    graph, storage = built.graph, decision.storage
    paths = {item.value: path_text(item.name) for item in graph.parameters}
    style = Style(graph, tuple(name.upper() for name in built.grid.names), paths, defaultdict(lambda: "block"))
    walk = Walk(built, decision, style)
    inputs = {LocalValue(item.value, storage[item.value]): item.value for item in graph.inputs}
    tensors = {held: walk.stored(held, {}) for held in inputs}
    walk.function(program.steps, inputs, tensors, (program.loss, *program.outputs), {})
    walk.backward()
    held = [
        *_standing(built, decision, optimizer, 2 * walk.clock + 1),
        *(one.allocation for one in walk.memories if one.nbytes),
    ]
    return Footprint(tuple(held), tuple(walk.names))


def _standing(built: PricedProblem, decision: Decision, optimizer: str, steps: int) -> Iterator[memory.Allocation]:
    """What is held all the time; and what the optimizer takes for its step."""
    graph, grid, often = built.graph, built.grid, built.microbatches
    for name, nbytes in inputs_bytes(built, decision).items():
        yield memory.Allocation(name, 0, steps, nbytes, "inputs")
    largest = 0
    for parameter in graph.parameters:
        stored = decision.storage[parameter.value]
        sizes = memory.parameter_parts(graph.values[parameter.value], parameter.kind, stored, optimizer, grid)
        bucket = summed_axes(stored, grid)
        largest = max(largest, sizes[1])
        yield memory.Allocation(parameter.name, 0, steps, sizes[0], "parameters")
        yield memory.Allocation(parameter.name, 0, steps, sizes[1] if bucket else 0, "gradients")
        if often > 1:  # the sum over the micro-batches, put aside
            yield memory.Allocation(parameter.name, 0, steps - 1, sizes[1], "gradients")
        yield memory.Allocation(parameter.name, 0, steps, sizes[2], "optimizer")
    yield memory.Allocation("update", steps - 1, steps, largest * memory.update_copies(optimizer), "transients")
