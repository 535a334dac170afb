"""What every rank does, in order: one conversion primitive or local call at a time, repeated blocks as a function and a loop.

A tensor in a layout is a `LocalValue`. `autopar.codegen.lower` makes the steps, `autopar.codegen.soundness` checks them.
"""

from __future__ import annotations

from dataclasses import dataclass

from autopar.costmodel.redistribution import Conversion
from autopar.ir.graph import Ref
from autopar.ir.layout import Layouts
from autopar.ops.annotated import AnnotatedCall
from autopar.partitioner.formulation.repeated_blocks import Repeat
from autopar.partitioner.formulation.strategies import Strategy


@dataclass(frozen=True, slots=True)
class LocalValue:
    """A value in one layout: what a variable of the program holds."""

    value: str
    layouts: Layouts


@dataclass(frozen=True, slots=True)
class Run:
    """A local call under a strategy; `writes` has one entry per result (None where a result is unused)."""

    annotated: AnnotatedCall
    strategy: Strategy
    reads: tuple[LocalValue, ...]
    writes: tuple[LocalValue | None, ...]


@dataclass(frozen=True, slots=True)
class Convert:
    """One primitive over one axis; `reader` is the call it is made for, "" where it is made for the loss or a loop."""

    conversion: Conversion
    reads: LocalValue
    writes: LocalValue
    reader: str
    module: str


@dataclass(frozen=True, slots=True)
class Update:
    """A buffer takes its new value. `stored` is the buffer's own value in the graph."""

    buffer: str
    stored: str
    reads: LocalValue


@dataclass(frozen=True, slots=True)
class Loop:
    """A function over repeated blocks: `entries` go in, `outputs` come out of a block and into the next one's entries.

    `carried` pairs an entry with the output that replaces it. `writes` are the last block's outputs. Where `recomputed`, backward
    computes each block's forward once more.
    """

    repeat: Repeat
    body: tuple[Step, ...]
    entries: tuple[LocalValue, ...]
    outputs: tuple[LocalValue, ...]
    carried: tuple[tuple[int, int], ...]
    reads: tuple[LocalValue, ...]
    writes: tuple[LocalValue, ...]
    recomputed: bool = False
    first: str = ""  # call of all these blocks: they may be in several segments, each with a loop of its own

    @property
    def function(self) -> tuple[object, ...]:
        """What loops have in common whose blocks are the same function."""
        return self.first, tuple(held.layouts for held in (*self.entries, *self.outputs)), self.recomputed


Step = Run | Convert | Update | Loop


@dataclass(frozen=True, slots=True)
class LoweredSegment:
    """The steps of one segment of a graph that is divided over the positions of a place axis.

    reads    what the user passes, or another segment hands on
    writes   what it hands on, or the program returns
    draws    the numbers of its random calls within the step of the whole model
    """

    position: int
    steps: tuple[Step, ...]
    reads: tuple[LocalValue, ...]
    writes: tuple[LocalValue, ...]
    draws: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LoweredProgram:
    """The steps of one training step, the loss they end in, and the other outputs as they lie then.

    Where the graph is divided, its `segments` have the same steps, those of one behind those of another that it reads from.
    """

    steps: tuple[Step, ...]
    loss: LocalValue
    outputs: tuple[LocalValue, ...] = ()
    segments: tuple[LoweredSegment, ...] = ()


def running(step: Run) -> tuple[str, ...]:
    """The values that a call changes in place: a batch norm's running statistics."""
    node = step.annotated.node
    return (
        tuple(arg.name for arg in node.args[3:5] if isinstance(arg, Ref)) if node.target == "autopar.batch_norm" else ()
    )


def conversions(program: LoweredProgram) -> tuple[tuple[Convert, int], ...]:
    """Every conversion with the number of times it runs in a step."""
    counted: list[tuple[Convert, int]] = []
    for step in program.steps:
        if isinstance(step, Convert):
            counted.append((step, 1))
        elif isinstance(step, Loop):
            counted += [(inner, len(step.repeat.nodes)) for inner in step.body if isinstance(inner, Convert)]
    return tuple(counted)
