"""How a graph is divided into stages, the same for all who train it: which blocks, on which rank, and in how many micro-batches"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

_FILE = "division.json"


@dataclass(frozen=True, slots=True)
class Division:
    """Stages over `ranks`: as many as the schedule takes, one a rank for ``1f1b`` and two for ``interleaved``."""

    ranks: int
    schedule: str
    microbatches: int

    @property
    def segments(self) -> int:
        """Stages of a rank."""
        return 2 if self.schedule == "interleaved" else 1

    @property
    def stages(self) -> int:
        return self.ranks * self.segments

    def blocks(self, stage: int, count: int) -> range:
        """Those of `count` blocks that stand on a stage: equal numbers, as users cut by hand."""
        bounds = [count * cut // self.stages for cut in range(self.stages + 1)]
        return range(*list(pairwise(bounds))[stage])

    def rank(self, stage: int) -> int:
        """Where a stage stands: stages are dealt round the ranks."""
        return stage % self.ranks

    def save(self, folder: Path) -> None:
        """Leave it for the processes that train."""
        (folder / _FILE).write_text(json.dumps(asdict(self)))

    @staticmethod
    def load(folder: Path) -> Division:
        """What was left there."""
        return Division(**json.loads((folder / _FILE).read_text()))
