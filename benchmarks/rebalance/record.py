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
    """Per step the seconds, each rank's compute seconds and those inside communication, the cuts, and where segments stand.

    A competitor is there from step `slowed` to `freed`, and has had `share` of the core. `best_compute` is the least that the
    slowest rank can compute for meanwhile, `in_turn` where ranks wait for each other between works that are cut into other
    rows, `said` what the scheduler said last.
    """

    case: str
    slowed: int
    freed: int
    seconds: tuple[float, ...]
    compute: tuple[tuple[float, ...], ...]
    waits: tuple[tuple[float, ...], ...]
    cuts: tuple[Cuts, ...]
    places: tuple[tuple[int, ...], ...]
    best_compute: float
    in_turn: float
    said: str
    share: float

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
        """The best possible with the competitor: computing, and communication on the rank that waits least for others.

        Communication on half of a core takes longer too, whatever is cut where; it is taken from when it took least.
        """
        return self.best_compute + self._communication

    @property
    def best_in_turn(self) -> float:
        """The same where ranks wait for each other between works of other rows: the best of one fraction for an axis."""
        return self.in_turn + self._communication

    @property
    def _communication(self) -> float:
        first = next((i for i in self.moves if i > self.slowed), self.freed)
        phases = range(self.slowed, first), range(self.slowed + REACTION, self.freed)
        return min(median(min(self.waits[i]) for i in steps) for steps in phases if steps)

    @property
    def regained(self) -> float:
        """The share of the slow-down that could be regained and was, if ranks never waited for each other in a step."""
        return self._regained(self.best)

    @property
    def regained_in_turn(self) -> float:
        """The share of the slow-down that one fraction for all rows of an axis could regain, and that was."""
        return self._regained(self.best_in_turn)

    def _regained(self, best: float) -> float:
        return (self.unmoved - self.after) / (self.unmoved - best)

    @property
    def overhead(self) -> float:
        """What the scheduler took of all steps but the first: from when the last rank was done to the end of the step."""
        done = [max(map(sum, zip(*own, strict=True))) for own in zip(self.compute, self.waits, strict=True)]
        return 1 - sum(done[WARM:]) / sum(self.seconds[WARM:])

    def _settled(self, first: int, end: int) -> tuple[float, ...]:
        """The seconds of these steps, from the last move among them on, without the step that makes new buffers."""
        start = max([first, *(i + 1 for i in self.moves if first <= i < end - 2)])
        return self.seconds[start:end]
