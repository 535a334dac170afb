"""What stands in a program in the place of `forward` where the graph is divided: its segments, and who does what when."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopar.ir.layout import Layout


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the graph, on one position of the place axis.

    `function(p, *reads)` takes the namespace of the parameters of this position and the local parts of what it reads, inputs
    of the model or what other segments write, and returns what it `writes`: a tensor, or a tuple of them. `draws` are the
    numbers within the step of the random calls that it makes: all of them, or the first of consecutive ones.
    """

    function: Callable[..., Any]
    at: int
    reads: Sequence[str]
    writes: Sequence[str]
    draws: int | Sequence[int] = 0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Segments, none of which reads what a later one writes; `edges` are the layouts, one per axis, of what is read by others.

    `schedule` is the text of who does what when (`autopar.ir.pipeline.schedule`). `returns` names what the program returns: the
    loss, then its outputs. Segments may read counts of the whole batch by the names `counted`, which are those of what the
    program's `counts` returns.
    """

    segments: Sequence[Segment]
    edges: Mapping[str, Sequence[Layout]]
    schedule: str
    returns: Sequence[str] = ("loss",)
    counted: Sequence[str] = ()
