"""``--profile``: the last steps of a run, every other one profiled, and ``profile.json`` beside the program.

Steps that are profiled and steps that are not take turns, so that both see the same machine: the difference of their medians
is what the profile costs. All steps before are for warming up. One step more, between the two, is watched for the memory that
it holds, since that watching costs more time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median_low
from typing import Any

import torch

from autopar.ir.profile import FILE, VERSION, Profile, digest, to_json
from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.profiling.action_times import ActionTimes
from autopar.runtime.profiling.memory_use import memory_use
from autopar.runtime.profiling.profiler import Profiler
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.transport.world import simulated_world
from autopar.version import __version__

PROFILED = 5  # steps, and as many without a profile


def scheduled(
    opened: CompiledJob, parallel: Parallel, optimizer: torch.optim.Optimizer, steps: int
) -> Schedule | ActionTimes:
    """What is profiled of a run: expressions, or actions where the graph is divided. Collective."""
    if parallel.grid.place is not None:
        return ActionTimes(opened, parallel, steps)
    return Schedule(opened, parallel, optimizer, steps)


class Schedule:
    """Which of a run's steps are profiled. Making it, and `write`, are collective."""

    def __init__(self, opened: CompiledJob, parallel: Parallel, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self._opened = opened
        self._parallel = parallel
        self._optimizer = optimizer
        self._steps = steps
        self._pairs = min(PROFILED, (steps - 2) // 2)
        with together(parallel.grid.comm, "instrumenting the program"):
            plan = opened.folder / "plan.json"
            self._plan = plan.read_text(encoding="utf-8")
            self._source = (opened.folder / "program.py").read_text(encoding="utf-8")
            said: list[dict[str, Any]] = json.loads(self._plan).get("places", [])
            self._profiler = Profiler(parallel, [(place["function"], place["text"]) for place in said])

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around one step, 1 the first."""
        left = self._steps - number
        if left < 2 * self._pairs and left % 2:
            with self._profiler.step(self._optimizer):
                yield
        elif left < 2 * self._pairs:
            start = time.perf_counter()
            yield
            self._profiler.plain.append(time.perf_counter() - start)
        elif left == 2 * self._pairs and simulated_world() is None:
            with memory_use() as used:
                yield
            self._profiler.peak = used.peak
        else:
            yield

    def write(self, moves: Sequence[str] = ()) -> list[str]:
        """Gather what all ranks have measured, and write it on rank 0; returns lines for people.

        `moves` are those of boundaries before the steps that were profiled.
        """
        profile = gathered(self._parallel, self._profiler, self._source, self._plan, moves)
        ranks, file = profile.ranks, self._opened.folder / FILE
        with together(self._parallel.grid.comm, f"writing {file}"):
            if self._parallel.grid.rank == 0:
                save(profile, file)
        profiled = max(median_low(rank.steps) for rank in ranks)
        plain = max(median_low(rank.plain) for rank in ranks)
        cost = f"{profiled * 1e3:.1f} ms per step, {plain * 1e3:.1f} ms without ({profiled / plain - 1:+.1%})"
        return [f"profiled   {len(ranks[0].steps)} steps, {cost}", f"profile    {os.path.relpath(file)}"]


def gathered(parallel: Parallel, profiler: Profiler, source: str, plan: str, moves: Sequence[str] = ()) -> Profile:
    """What all ranks have measured of the program and plan with these texts. Collective."""
    return Profile(
        version=VERSION,
        autopar=__version__,
        program_sha256=digest(source),
        plan_sha256=digest(plan),
        grid=str(parallel.grid.shape),
        expressions=profiler.expressions,
        ranks=profiler.result(),
        moves=tuple(moves),
    )


def save(profile: Profile, file: Path) -> None:
    """Write a profile; the file appears whole or not at all."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(to_json(profile), encoding="utf-8")
    new.replace(file)
