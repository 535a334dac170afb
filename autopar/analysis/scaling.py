"""What a model would cost on other numbers of ranks, without running it: strong and weak scaling.

strong   the same batch on p ranks            speed-up t(1) / t(p)
weak     p times the batch on p ranks         speed-up p t(1) / t(p): so much more of the batch per second

t(1) is the predicted step on one rank that holds everything, whether or not its memory would do. Efficiency is the speed-up
over p. For every number of ranks the model is planned anew on several grids, of one axis and of two (`grids_of`), and the
plan with the shortest predicted step counts. The model is captured once per batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autopar.costmodel import step_schedule
from autopar.costmodel.rank_views import rounds
from autopar.costmodel.timeline import Ranks, simulate
from autopar.errors import AutoparError, ConfigError, PlanError, refusal
from autopar.ir import machine as machines
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine
from autopar.ir.plan import Plan
from autopar.planning import grid_search as grids
from autopar.planning.stalls.queue_timeline import QueueNoise, simulate_queue

if TYPE_CHECKING:
    from autopar.compiler import Compiled
    from autopar.model_file import Inputs

MOST = 12  # grids of one number of ranks
OnPoint = Callable[["Point", int, float], None]  # a point, the number of its grids, seconds that it took


@dataclass(frozen=True, slots=True)
class Noise:
    """What disturbs the ranks: factors of slow ones, jitter and its seed; and over how many steps."""

    slow: Mapping[int, float]
    jitter: float = 0.0
    seed: int = 0
    steps: int = 1

    @property
    def quiet(self) -> bool:
        """Whether there is none."""
        return not self.jitter and all(factor == 1.0 for factor in self.slow.values())

    def run(self, plan: Plan, watch: Sequence[int] = ()) -> Ranks:
        """Steps of a plan under it."""
        grid, tasks = GridShape.parse(plan.grid), step_schedule.of(plan)
        if grid.queue is not None and plan.batch.division is not None:
            count, speeds = plan.batch.division.microbatches, plan.machine.speeds(grid.size)
            slow = {rank: self.slow.get(rank, 1.0) / speed for rank, speed in enumerate(speeds)}
            noise, often = QueueNoise(slow, self.jitter, self.seed), rounds(plan.machine, grid, count)
            return simulate_queue(tasks, grid, count, often, noise, steps=self.steps, watch=watch or (0,))
        return simulate(
            tasks,
            grid.sizes,
            slow=self.slow,
            jitter=self.jitter,
            seed=self.seed,
            steps=self.steps,
            watch=watch,
        )


@dataclass(frozen=True, slots=True)
class PointRequest:
    """One point of a curve: the scaling, how many ranks, the grids to choose from, and rows of the batch (None: as compiled)."""

    scaling: str
    ranks: int
    grids: tuple[GridShape, ...]
    rows: int | None


@dataclass(frozen=True, slots=True)
class Point:
    """What came out: the best plan with its step in seconds, or why there is none. `reference` is t(1)."""

    scaling: str
    ranks: int
    rows: int
    plan: Plan | None
    reference: float
    seconds: float
    why: str = ""

    @property
    def speedup(self) -> float:
        """How much more of the batch per second than one rank."""
        times = self.ranks if self.scaling == "weak" else 1
        return times * self.reference / self.seconds if self.seconds else 1.0

    @property
    def efficiency(self) -> float:
        """The speed-up over the number of ranks."""
        return self.speedup / self.ranks


def grids_of(ranks: int, machine: Machine, names: Sequence[str] = ()) -> tuple[GridShape, ...]:
    """The grids to try: one axis, then two, those nearest to a square first, in both orders where nodes differ; at most `MOST`.

    With `names`, which pins speak of, all grids have just these axes, of which some may have one rank.
    """
    if names:
        products = sorted(_products(ranks, len(names)), key=lambda sizes: (max(sizes) / min(sizes), sizes))
        return tuple(GridShape(tuple(names), sizes) for sizes in products[:MOST])
    shapes = [shape for shape in grids.candidates(ranks, machine) if len(shape.sizes) <= 2]
    return tuple(shapes[:MOST]) or (GridShape.parse("1"),)


def _products(number: int, parts: int) -> list[tuple[int, ...]]:
    """All ways to write a number as a product of so many factors, in order."""
    if parts == 1:
        return [(number,)]
    small = [factor for factor in range(1, math.isqrt(number) + 1) if number % factor == 0]
    return [
        (factor, *rest)
        for factor in sorted({*small, *(number // factor for factor in small)})
        for rest in _products(number // factor, parts - 1)
    ]


def check(points: Sequence[PointRequest], machine: Machine, slow: Mapping[int, float]) -> None:
    """Raise ConfigError for grids that the machine has no room for, and for slow ranks that some point lacks."""
    for point in points:
        for grid in point.grids:
            machines.check_ranks(machine, grid)
    check_slow(slow, {point.ranks for point in points})


def check_slow(slow: Mapping[int, float], ranks: Sequence[int] | set[int]) -> None:
    """Raise ConfigError where a slow rank is none of the ranks."""
    missing = [f"rank {rank} of {count}" for count in sorted(ranks) for rank in sorted(slow) if rank >= count]
    if missing:
        rule = "ranks are numbered from 0 to one less than there are"
        fix = "name a rank that all grids have, or leave out the smaller grids"
        raise ConfigError(refusal("--slow", "no such rank", rule, missing[:10], fix))


def curve(
    base: Compiled, points: Sequence[PointRequest], machine: Machine, noise: Noise, on_point: OnPoint
) -> list[Point]:
    """Plan every point. What cannot be planned is a point with a reason."""
    captured = _Captured(base)
    predicted = []
    for requested_points in points:
        start = time.perf_counter()
        predicted.append(_point(captured, requested_points, machine, noise))
        on_point(predicted[-1], len(requested_points.grids), time.perf_counter() - start)
    return predicted


def _point(captured: _Captured, requested_points: PointRequest, machine: Machine, noise: Noise) -> Point:
    rows = requested_points.rows or captured.rows
    try:
        model = captured.of(requested_points.rows)
    except AutoparError as error:
        return Point(requested_points.scaling, requested_points.ranks, rows, None, 0.0, 0.0, _reason(error))
    plans, reasons = [], []
    for grid in requested_points.grids:
        try:
            plans.append(_replanned(model, grid, machine))
        except AutoparError as error:
            reasons.append(_reason(error))
    if not plans:
        return Point(requested_points.scaling, requested_points.ranks, rows, None, 0.0, 0.0, reasons[0])
    best = min(plans, key=lambda plan: plan.predicted.seconds)
    seconds = best.predicted.seconds if noise.quiet else noise.run(best).seconds
    times = requested_points.ranks if requested_points.scaling == "weak" else 1
    reference = captured.single(rows // times, machine) if requested_points.scaling == "weak" else best.single
    return Point(requested_points.scaling, requested_points.ranks, rows, best, reference, seconds)


def _replanned(model: Compiled, grid: GridShape, machine: Machine) -> Plan:
    other = machine != model.plan.machine
    return model.replan(grid=grid, machine=machine, memory="machine" if other else None, measure=False).plan


def _reason(error: AutoparError) -> str:
    return str(error).splitlines()[0]


@dataclass(frozen=True, slots=True)
class _Captured:
    """The model captured for any number of rows, each once."""

    base: Compiled
    known: dict[int, Compiled] = field(default_factory=dict)
    singles: dict[int, float] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.base.plan.batch.rows

    def of(self, rows: int | None) -> Compiled:
        if rows is None or rows == self.rows:
            return self.base
        if rows not in self.known:
            self.known[rows] = _with_rows(self.base, rows)
        return self.known[rows]

    def single(self, rows: int, machine: Machine) -> float:
        """Seconds of a step with so many rows on one rank, whether or not they fit its memory."""
        if rows not in self.singles:
            compiled = self.of(rows).replan(
                grid="1", machine=machine, memory=1e30, measure=False, pin=(), ban=(), plan="auto", recompute="never"
            )
            self.singles[rows] = compiled.plan.single
        return self.singles[rows]


def _with_rows(base: Compiled, rows: int) -> Compiled:
    """The model captured anew with another number of rows."""
    from autopar.capture import capture
    from autopar.model_file import load
    from autopar.subject import Subject

    source, options = base.plan.model, base.plan.options
    file = load(f"{source.path}:{source.attribute}")
    inputs = _grown(file.example_inputs(), rows)
    captured = capture(file.model, inputs, name=base.plan.name, loss=options.loss, outputs=options.outputs)
    return replace(base, subject=Subject.of(base.model, captured, source))


def _grown(examples: Inputs, rows: int) -> Inputs:
    """The same inputs with so many rows, without their numbers: a graph knows shapes only."""
    import torch

    from autopar.capture.validity.batch_rows import rows_of

    before = rows_of(examples)

    def grown(value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return value
        more = value.dim() > 0 and value.shape[0] == before
        shape = (rows, *value.shape[1:]) if more else value.shape
        return torch.empty(shape, dtype=value.dtype, device="meta")

    if isinstance(examples, dict):
        return {name: grown(value) for name, value in examples.items()}
    return tuple(map(grown, examples))


def check_rows(plan: Plan, folder: str | Path) -> None:
    """Raise PlanError where a model cannot have another number of rows."""
    if plan.batch.fixed:
        rule = "weak scaling and --batch need a model that takes batches of other sizes"
        fix = "use --scaling strong without --batch"
        raise PlanError(refusal(str(folder), f"its batch is as compiled only: {plan.batch.fixed}", rule, fix=fix))


def requested_points(
    ranks: Sequence[int],
    shapes: Sequence[GridShape],
    kinds: Sequence[str],
    rows: int | None,
    plan: Plan,
    machine: Machine,
) -> Iterator[PointRequest]:
    """The points for these numbers of ranks and these grids; `rows` is the batch, of one rank where scaling is weak."""
    options = plan.options
    names = GridShape.parse(plan.grid).names if options.pins or options.bans else ()
    for kind in kinds:
        for count, chosen in [(count, grids_of(count, machine, names)) for count in ranks] + [
            (shape.size, (shape,)) for shape in shapes
        ]:
            times = count if kind == "weak" else 1
            known = plan.batch.rows if rows is None else rows
            yield PointRequest(kind, count, chosen, known * times if kind == "weak" or rows is not None else None)
