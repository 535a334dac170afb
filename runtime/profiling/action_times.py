"""``--profile`` of a divided program: what every rank did in one of the last steps, when, and how long it waited for messages.

``timeline.json`` beside the program has the step whose length is the median, per rank: [action, start, end, waited] in seconds from
the beginning of the rank's step. Ranks begin a step together, when they agree on its inputs. The step before those is watched for
the memory that it holds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from autopar.ir.pipeline.measured_step import FILE, VERSION, MeasuredAction, MeasuredRank, MeasuredStep, to_json
from autopar.ir.pipeline.schedule import NAMES
from autopar.ir.profile import digest
from autopar.ir.units import bytes_text
from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.profiling.memory_use import memory_use
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.transport.world import simulated_world

RECORDED = 5  # steps


class ActionTimes:
    """Records the actions of a run's last steps. `write` is collective."""

    def __init__(self, opened: CompiledJob, parallel: Parallel, steps: int) -> None:
        self._opened = opened
        self._parallel = parallel
        self._steps = steps
        self._recorded: list[tuple[float, list[list[Any]]]] = []  # seconds of a step, and its actions
        self._peak = 0

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around one step, 1 the first."""
        if self._steps - number >= RECORDED:
            watched = self._steps - number == RECORDED and simulated_world() is None
            with memory_use() if watched else nullcontext() as used:
                yield
            self._peak = used.peak if used is not None else 0
            return
        start = time.perf_counter()
        with self._parallel.recording_actions() as actions:
            yield
        rows = [[str(one.action), one.start - start, one.end - start, one.waited] for one in actions]
        self._recorded.append((time.perf_counter() - start, rows))

    def write(self, moves: Sequence[str] = ()) -> list[str]:
        """Gather what all ranks have recorded, and write it on rank 0; returns lines for people.

        `moves` are those of boundaries and segments before the steps that were recorded.
        """
        grid, file = self._parallel.grid, self._opened.folder / FILE
        assert grid.place is not None
        totals: list[Any] = grid.comm.gather_objects([seconds for seconds, _ in self._recorded])
        longest = [max(each) for each in zip(*totals, strict=True)]
        middle = sorted(range(len(longest)), key=longest.__getitem__)[(len(longest) - 1) // 2]
        every: list[Any] = grid.comm.gather_objects([grid.place.index, self._recorded[middle][1], self._peak])
        ranks = tuple(
            MeasuredRank(rank, position, tuple(MeasuredAction(*row) for row in rows), peak)
            for rank, (position, rows, peak) in enumerate(every)
        )
        with together(grid.comm, f"writing {file}"):
            source = (self._opened.folder / "program.py").read_text(encoding="utf-8")
            step = MeasuredStep(VERSION, digest(source), longest[middle], ranks, tuple(moves))
            if grid.rank == 0:
                file.write_text(to_json(step), encoding="utf-8")
        plan = json.loads((self._opened.folder / "plan.json").read_text(encoding="utf-8"))
        lines = [
            _line(step.slowest(position), step.seconds) + _held(step.peak(position), predicted)
            for position, predicted in enumerate(plan["placement"]["bytes"])
        ]
        return [*lines, f"timeline   {os.path.relpath(file)}"]


def _line(rank: MeasuredRank, seconds: float) -> str:
    """What the rank of a position that has worked longest did in a step, in words."""
    work = {kind: sum(action.work for action in rank.actions if action.action[0] == kind) for kind in NAMES}
    parts = [f"{NAMES[kind]} {spent * 1e3:.1f} ms" for kind, spent in work.items() if spent]
    waited = sum(action.waited for action in rank.actions)
    return f"position {rank.position} {', '.join(parts)}, waits {waited * 1e3:.1f} of {seconds * 1e3:.1f} ms"


def _held(peak: int, predicted: float) -> str:
    """What the rank of a position that holds most held, in words."""
    return f"; holds {bytes_text(peak)}, predicted {bytes_text(predicted)}" if peak else ""
