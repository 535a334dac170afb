"""Moves the boundaries of batch and domain axes between steps, so that slower ranks get less to do.

    scheduler = Scheduler(parallel, optimizer)
    for batch in batches:
        with scheduler.step():
            ...                      # forward, backward, optimizer

Compute seconds of a step are its wall seconds less those spent inside communication calls; processor time would not
do, since a rank that waits in MPI is busy. After a window of steps all ranks exchange what they measured, and each
works out the same decision from the same numbers (`autopar.runtime.training.load_balance`). The numbers that the program
computes do not depend on it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from autopar.ir.layout import Layouts, Shard
from autopar.runtime.parameters.minimum_rows import least_share
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training.load_balance import BalanceSettings, Movable, Move, decide, patience


class Scheduler:
    """Measures steps and moves boundaries of a `Parallel`. `moves` are those made, each with the step before it."""

    def __init__(
        self,
        parallel: Parallel,
        optimizer: torch.optim.Optimizer | None = None,
        settings: BalanceSettings | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.moves: list[tuple[int, Move]] = []
        self._parallel = parallel
        self._optimizer = optimizer
        self._settings = settings or BalanceSettings()
        self._clock = clock
        self._extents = split_extents(parallel)
        self._compute: list[float] = []
        self._wall: list[float] = []
        self._steps = 0
        self._window = self._settings.window
        self._rest = self._settings.rest  # the first step makes buffers and communicators
        self._move_seconds = 0.0

    @property
    def idle(self) -> bool:
        """Whether there is nothing that could move."""
        return not self._extents

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure the body as one step, and move boundaries after it when that pays. Collective."""
        start, waited = self._clock(), self._parallel.communication_seconds
        yield
        wall = self._clock() - start
        self._steps += 1
        if self.idle:
            return
        if self._rest:
            self._rest -= 1
            return
        self._wall.append(wall)
        self._compute.append(wall - (self._parallel.communication_seconds - waited))
        if len(self._wall) >= self._window:
            self._consider()

    def _consider(self) -> None:
        mine = [self._compute, statistics.median(self._wall), self._move_seconds]
        self._compute, self._wall = [], []
        every = self._parallel.grid.comm.gather_objects(mine)
        compute, walls, moved = zip(*every, strict=True)
        step, seconds = max(walls), list(zip(*compute, strict=True))
        move = decide(
            self._parallel.grid.shape.sizes, self._movable(), seconds, step, max(step, *moved), self._settings
        )
        self._window = patience(self._window, move is not None, self._settings)
        if move is not None:
            start = self._clock()
            self._parallel.rebalance({self._parallel.grid.axes[move.axis].name: move.cuts}, self._optimizer)
            self._move_seconds = self._clock() - start
            self._rest = self._settings.rest
            self.moves.append((self._steps, move))

    def _movable(self) -> list[Movable]:
        axes, filled = self._parallel.grid.axes, self._parallel.filled
        return [
            Movable(i, tuple(axes[i].bounds(extent) for extent in extents), least_share(axes, i, filled))
            for i, extents in self._extents.items()
        ]


def split_extents(parallel: Parallel) -> dict[int, tuple[int, ...]]:
    """The axes whose boundaries may move, by number, with the extents that they split.

    These are the axes over which inputs are split and no parameter or buffer is: batch and domain axes.
    """
    described = {item.name: item.shape for item in parallel.description.inputs}
    split = _extents(parallel.input_layouts, described)
    held = _extents(parallel.parameter_layouts, {item.name: item.shape for item in parallel.description.parameters})
    axes = parallel.grid.axes
    return {i: extents for i, extents in split.items() if i not in held and axes[i].size > 1}


def _extents(layouts: Mapping[str, Layouts], shapes: Mapping[str, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    split: dict[int, set[int]] = {}
    for name, every in layouts.items():
        for i, layout in enumerate(every):
            if isinstance(layout, Shard):
                split.setdefault(i, set()).add(shapes[name][layout.dim] // (layout.blocks * layout.unit))
    return {i: tuple(sorted(extents)) for i, extents in sorted(split.items())}
