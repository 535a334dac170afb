"""Measured seconds of calls at their exact local shapes: what is known of a call is taken in place of the roofline.

`autopar compile --measure` makes them (`autopar.measure`); without it there are none. They are those of one rank while all
ranks of its node that have a core compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autopar.ops.record.rule import Choice


@dataclass(frozen=True, slots=True, eq=False)
class Timings:
    """(forward, backward) seconds by the call's name and what it does on each axis."""

    seconds: Mapping[tuple[str, tuple[Choice, ...]], tuple[float, float]] = field(default_factory=dict)

    def of(self, name: str, choices: tuple[Choice, ...]) -> tuple[float, float] | None:
        """What was measured, or None."""
        return self.seconds.get((name, choices)) if self.seconds else None


UNMEASURED = Timings()
