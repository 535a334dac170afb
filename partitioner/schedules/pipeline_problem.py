"""A training step divided into segments that lie on positions, and micro-batches: what a schedule is sought for.

Of one micro-batch, F of a segment runs when those of all segments before it have run and what they send has arrived; B when
its own F and the B of all segments after it have; W, where it is deferred, when its own B has. A position does one action at a
time. What goes to another position travels beside computation: each ordered pair of positions is a channel that carries one
message at a time, in the order in which the actions that send them end, and for one action in the order of `edges`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SegmentEdge:
    """What `source` makes and `target` reads: seconds of its message forward, and of its gradient's message back.

    Between segments of one position nothing is sent, and the seconds do not count. A value that two segments of one position
    read travels once: of its two edges, give the one that stands first in `PipelineProblem.edges` the seconds and the other
    none; it then arrives with the first, since a channel keeps the order. `size` is the bytes per micro-batch of the message
    forward. Without `gradient` (integers, masks) nothing comes back, and B of the source does not wait for B of the target.
    """

    source: int
    target: int
    forward: float = 0.0
    backward: float = 0.0
    size: float = 0.0
    gradient: bool = True


@dataclass(frozen=True, slots=True)
class PipelineProblem:
    """What is to be scheduled: segments, numbered in a topological order of their edges, times micro-batches.

    Per segment: its `position`; seconds for one micro-batch of its `forward`, of its whole `backward`, and of `weight`, the part
    of backward that can be deferred to W; the bytes per micro-batch `kept` from the start of F to the end of B, and `held` from
    there to the end of W where that is deferred. Per position (of which some may have no segment): `limit`, the most bytes that
    kept and held may come to (None: no limit), and `update`, seconds after its last action (empty: none).
    """

    positions: int
    microbatches: int
    position: tuple[int, ...]
    forward: tuple[float, ...]
    backward: tuple[float, ...]
    weight: tuple[float, ...]
    edges: tuple[SegmentEdge, ...]
    kept: tuple[float, ...]
    held: tuple[float, ...]
    limit: tuple[float, ...] | None = None
    update: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        per_segment = (self.forward, self.backward, self.weight, self.kept, self.held)
        assert all(len(each) == len(self.position) for each in per_segment), "one entry per segment"
        assert all(0 <= position < self.positions for position in self.position), "a segment on no position"
        assert all(0 <= edge.source < edge.target < self.segments for edge in self.edges), "not a topological order"
        assert self.limit is None or len(self.limit) == self.positions, "one limit per position"
        assert len(self.update) in (0, self.positions), "one update per position"

    @property
    def segments(self) -> int:
        """The number of segments."""
        return len(self.position)

    def most(self, position: int) -> float:
        """The memory limit of a position, in bytes; `inf` where there is none."""
        return math.inf if self.limit is None else self.limit[position]

    def after(self, position: int) -> float:
        """Seconds of what a position does after its last action."""
        return self.update[position] if self.update else 0.0

    def seconds(self, kind: str, segment: int, deferred: bool) -> float:
        """Seconds of an action; `deferred` says whether the segment's schedule has W actions."""
        if kind == "F":
            return self.forward[segment]
        if kind == "W":
            return self.weight[segment]
        return self.backward[segment] - (self.weight[segment] if deferred else 0.0)
