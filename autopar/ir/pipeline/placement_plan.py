"""What a plan says of a graph that is divided over the positions of a place axis: segments, edges, schedule, and its costs."""

from __future__ import annotations

from dataclasses import dataclass

from autopar.ir.pipeline.positions import PositionLimits, PositionLinks

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """A segment of a divided graph: its function in the program, where it stands, and its calls.

    Seconds are for one micro-batch, `seconds_weight` being the part of backward that the schedule defers. Bytes are those of
    one rank: kept from the forward to the backward of a micro-batch, `held_bytes` from there to what is deferred, and those of
    the parameters that it reads.
    """

    function: str
    position: int
    calls: tuple[str, ...]
    seconds_forward: float
    seconds_backward: float
    seconds_weight: float
    kept_bytes: float
    held_bytes: float
    parameters_bytes: int


@dataclass(frozen=True, slots=True)
class EdgePlan:
    """What leaves a segment: its whole shape at the planned rows, its dims that are rows, and who makes and reads it.

    `bytes` are those of one rank and micro-batch; as many come back where it is differentiable.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layouts: tuple[str, ...]
    rows: tuple[int, ...]
    differentiable: bool
    source: int
    readers: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class MessagePlan:
    """All that goes from one segment to another for a micro-batch: seconds forward and back, and bytes forward, of one rank.

    None are left where a value has been sent to that position for another segment. `gradient`: whether anything comes back.
    """

    source: int
    target: int
    seconds_forward: float
    seconds_backward: float
    bytes: float
    gradient: bool


@dataclass(frozen=True, slots=True)
class DivisionPlan:
    """What a way to divide the graph comes to: seconds of a step, bytes between positions, the largest work over the mean."""

    name: str
    makespan: float
    cut_bytes: float
    imbalance: float


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """The graph divided over the positions of the place axis `axis`.

    `makespan` is the simulated step, no division is faster than `bound`. Per position: the text of its `schedule`, seconds of
    work, of which `update` come after its last action, and the bytes that one of its ranks holds, inputs included. `limits` and
    `links` are what it was placed for, `memory` being what inputs leave.
    """

    axis: str
    positions: int
    microbatches: int
    segments: tuple[SegmentPlan, ...]
    edges: tuple[EdgePlan, ...]
    messages: tuple[MessagePlan, ...]
    schedule: tuple[str, ...]
    makespan: float
    bound: float
    cut_bytes: float
    imbalance: float
    seconds: tuple[float, ...]
    update: tuple[float, ...]
    bytes: tuple[float, ...]
    limits: tuple[PositionLimits, ...]
    links: PositionLinks
    baselines: tuple[DivisionPlan, ...]

    @property
    def gap(self) -> float:
        """How far the makespan may be above the best, as a share of it."""
        return max(0.0, self.makespan - self.bound) / self.makespan if self.makespan else 0.0

    @property
    def idle(self) -> tuple[float, ...]:
        """Per position, the share of the step in which it does nothing; 0 where that is rounding."""
        shares = (1.0 - work / self.makespan if self.makespan else 0.0 for work in self.seconds)
        return tuple(share if share > _ROUNDING else 0.0 for share in shares)

    @property
    def segment_of(self) -> dict[str, int]:
        """The segment of every call."""
        return {name: number for number, segment in enumerate(self.segments) for name in segment.calls}
