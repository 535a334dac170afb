"""``--profile`` of a divided program: what every rank did in one of the last steps, when, and how long it waited for messages.

``timeline.json`` beside the program has the step whose length is the median, per rank: [action, start, end, waited] in seconds from
the beginning of the rank's step. Ranks begin a step together, when they agree on its inputs.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.session.parallel_module import Parallel

FILE = "timeline.json"
RECORDED = 5  # steps
_WORDS = {"F": "forward", "B": "backward", "W": "weight gradients"}


class ActionTimes:
    """Records the actions of a run's last steps. `write` is collective."""

    def __init__(self, opened: CompiledJob, parallel: Parallel, steps: int) -> None:
        self._opened = opened
        self._parallel = parallel
        self._steps = steps
        self._recorded: list[tuple[float, list[list[Any]]]] = []  # seconds of a step, and its actions

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around one step, 1 the first."""
        if self._steps - number >= RECORDED:
            yield
            return
        start = time.perf_counter()
        with self._parallel.recording_actions() as actions:
            yield
        rows = [[str(one.action), one.start - start, one.end - start, one.waited] for one in actions]
        self._recorded.append((time.perf_counter() - start, rows))

    def write(self) -> list[str]:
        """Gather what all ranks have recorded, and write it on rank 0; returns lines for people."""
        grid, file = self._parallel.grid, self._opened.folder / FILE
        assert grid.place is not None
        totals: list[Any] = grid.comm.gather_objects([seconds for seconds, _ in self._recorded])
        longest = [max(each) for each in zip(*totals, strict=True)]
        middle = sorted(range(len(longest)), key=longest.__getitem__)[(len(longest) - 1) // 2]
        mine = {"rank": grid.rank, "position": grid.place.index, "actions": self._recorded[middle][1]}
        every: list[Any] = grid.comm.gather_objects(mine)
        said = {"grid": str(grid.shape), "seconds": longest[middle], "ranks": every}
        with together(grid.comm, f"writing {file}"):
            if grid.rank == 0:
                file.write_text(json.dumps(said) + "\n", encoding="utf-8")
        lines = [_line(rank["position"], rank["actions"], longest[middle]) for rank in every]
        first = range(0, grid.size, grid.size // grid.place.size)  # one rank of each position
        return [*(lines[rank] for rank in first), f"timeline   {os.path.relpath(file)}"]


def _line(position: int, actions: list[list[Any]], seconds: float) -> str:
    """What a rank of a position did in a step, in words."""
    work = {kind: sum(e - s - w for name, s, e, w in actions if name[0] == kind) for kind in _WORDS}
    parts = [f"{_WORDS[kind]} {spent * 1e3:.1f} ms" for kind, spent in work.items() if spent]
    waited = sum(action[3] for action in actions)
    return f"position {position} {', '.join(parts)}, waits {waited * 1e3:.1f} of {seconds * 1e3:.1f} ms"
