"""What the positions of a place axis are to a placement: their speed, their memory, and the links between them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PositionLimits:
    """A position of the place axis: its speed (seconds of a call are divided by it), and its memory in bytes (None: no limit)."""

    speed: float = 1.0
    memory: float | None = None


@dataclass(frozen=True, slots=True)
class PositionLinks:
    """Seconds of a message between positions a and b: ``alpha[a][b] + bytes * beta[a][b]``."""

    alpha: tuple[tuple[float, ...], ...]
    beta: tuple[tuple[float, ...], ...]

    @staticmethod
    def uniform(positions: int, alpha: float, beta: float) -> PositionLinks:
        """Links that are all alike."""
        return PositionLinks(((alpha,) * positions,) * positions, ((beta,) * positions,) * positions)
