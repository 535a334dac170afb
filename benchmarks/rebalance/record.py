"""What a run with a competitor has shown: medians of its phases, and how much of the slow-down was regained."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median

Cuts = tuple[tuple[float, ...] | None, ...]
WARM = 2  # steps that are not counted
REACTION = 8  # steps in which most is to be regained


@dataclass(frozen=True, slots=True)
class SlowedRun:
    """Per step the seconds, each rank's compute seconds, the cuts, and where segments stand.

    A competitor is there from step `slowed` to `freed`. `best_compute` is the least that the slowest rank can compute for
    meanwhile, `said` what the scheduler said last.
    """

    case: str
    slowed: int
    freed: int
    seconds: tuple[float, ...]
    compute: tuple[tuple[float, ...], ...]
    cuts: tuple[Cuts, ...]
    places: tuple[tuple[int, ...], ...]
    best_compute: float
    said: str

    @property
    def moves(self) -> list[int]:
        """The steps before which boundaries or segments moved."""
        states = zip(self.cuts, self.places, strict=True)
        return [i + 1 for i, (before, after) in enumerate(pairwise(states)) if before != after]

    @property
    def before(self) -> float:
        """A step under the cuts at which the ranks stood before the competitor came."""
        return median(self._settled(WARM, self.slowed))

    @property
    def unmoved(self) -> float:
        """A step with the competitor, until boundaries move."""
        first = next((i for i in self.moves if i > self.slowed), self.freed)
        return median(self.seconds[self.slowed : min(first, self.freed)])

    @property
    def after(self) -> float:
        """A step with the competitor, once there was time to move."""
        return median(self.seconds[self.slowed + REACTION : self.freed])

    @property
    def freed_again(self) -> float:
        """A step once the competitor has been gone for as long."""
        return median(self.seconds[self.freed + REACTION :])

    @property
    def best(self) -> float:
        """The best possible with the competitor: computing, and what a step took beside its slowest rank's computing before."""
        steps = [i for i in range(WARM, self.slowed) if i not in self.moves]
        return self.best_compute + median(self.seconds[i] - max(self.compute[i]) for i in steps)

    @property
    def regained(self) -> float:
        """The share of the slow-down that could be regained and was."""
        return (self.unmoved - self.after) / (self.unmoved - self.best)

    def _settled(self, first: int, end: int) -> tuple[float, ...]:
        """The seconds of these steps, from the last move among them on, without the step that makes new buffers."""
        start = max([first, *(i + 1 for i in self.moves if first <= i < end - 2)])
        return self.seconds[start:end]
