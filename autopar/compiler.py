"""The way through: from an ``nn.Module`` to a checked program, one record handed from stage to stage.

nn.Module      -> Graph            autopar.capture
Graph          -> AnnotatedGraph   autopar.ops.annotated: the record and the rule of every call
AnnotatedGraph -> Candidate        autopar.planning.planner: priced, solved, lowered to steps, tried again under the limit
Steps          -> checked          autopar.codegen.soundness: sound on every rank
Steps          -> program.py       autopar.codegen.emit: one readable SPMD file
Candidate      -> Plan             autopar.planning.plan_record
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopar.divided_model import DividedModel
from autopar.emission import emitted
from autopar.errors import CaptureError, ConfigError
from autopar.internal_errors import BrokenCall, as_internal_error
from autopar.ir import machine as machines
from autopar.ir.graph import Graph
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine
from autopar.ir.plan import ModelSource, Options, Plan
from autopar.partitioner.formulation.priced_problem import PricedProblem
from autopar.partitioner.problem import NotShorter, Solution
from autopar.planning import alternatives, baselines, grid_search, microbatch_search
from autopar.planning.candidate import Candidate
from autopar.planning.microbatch_search import MicrobatchCount
from autopar.planning.options import bytes_of, check, microbatches_of, options_of
from autopar.planning.place_axis.feasibility import check_divisible
from autopar.planning.place_axis.schedule_options import asked_of
from autopar.planning.placing import Placed, divided
from autopar.planning.planner import planned
from autopar.planning.request import Request
from autopar.planning.stalls.expected_step import least_stalled_seconds, stalls_of_step
from autopar.progress import Progress, logged, timed
from autopar.subject import LIVE, Subject, captured_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled model: the plan, the program's source, and what they were made from.

    `grids` are those that were tried, where the grid was to be found. `others` are the programs for batches of other sizes
    than `plan.batch` takes. A `division` is how a batch is divided into micro-batches.
    """

    plan: Plan
    source: str
    subject: Subject
    built: PricedProblem
    solution: Solution
    grids: tuple[grid_search.Tried, ...] = ()
    others: tuple[Compiled, ...] = ()
    division: DividedModel | None = None

    @property
    def graph(self) -> Graph:
        """The model as it was captured, for the whole batch."""
        return self.subject.captured.graph

    @property
    def unlimited(self) -> bool:
        """Whether the plan was found without a memory limit, which it meets all the same."""
        return self.built.problem.limit is None

    @property
    def constants(self) -> Mapping[str, torch.Tensor]:
        """Tensors that capture lifted out of the model."""
        captured = self.subject.captured if self.division is None else self.division.captured
        return captured.constants

    @property
    def model(self) -> object:
        """The module, or the function of one."""
        return self.subject.model

    def save(self, folder: str | Path) -> Path:
        """Write ``program.py`` and ``plan.json`` (and constants or a live module's parameters) into `folder`.

        It can be looked at and simulated; to be run, a folder needs a model file, as `autopar compile` names one.
        """
        from autopar import artifact as folders

        return folders.save(self, Path(folder))

    def explain(self, name: str) -> alternatives.Explanation:
        """The alternatives of the calls that `name` (a module path, call name or pattern) matches, with their costs."""
        return alternatives.explain(self.built, self.solution.choice, name)

    def replan(
        self,
        *,
        grid: str | GridShape | None = None,
        machine: str | Path | Machine | None = None,
        memory: str | float | None = None,
        solver: str | None = None,
        pin: Sequence[str] | None = None,
        ban: Sequence[str] | None = None,
        optimizer: str | None = None,
        time_limit: float | None = None,
        measure: bool | None = None,
        recompute: str | None = None,
        plan: str | None = None,
        schedule: str | None = None,
        segments: int | None = None,
        ranks: int | None = None,
        microbatches: int | str | None = None,
        progress: Progress | None = None,
    ) -> Compiled:
        """What if: the same model planned anew, without capturing it again. What is left out stays as it was compiled.

        ``memory="machine"`` takes a limit away and leaves the machine's own. Pins and bans name axes: where they are
        left out and the grid has other axes, they are refused as `compile` refuses them; what was asked of a place axis goes
        with it.

        Raises what `compile` raises after the capture: ConfigError, InfeasiblePlan.
        """
        changes: dict[str, Any] = {
            "solver": solver, "pins": None if pin is None else tuple(pin), "bans": None if ban is None else tuple(ban),
            "optimizer": optimizer, "time_limit": time_limit, "measure": measure, "recompute": recompute, "plan": plan,
            "microbatches": None if microbatches is None else microbatches_of(microbatches),
            "schedule": schedule, "segments": segments,
        }  # fmt: skip
        options = replace(self.plan.options, **{name: value for name, value in changes.items() if value is not None})
        if memory is not None:
            options = replace(options, memory=None if memory == "machine" else bytes_of(memory))
        grid = self.plan.grid if grid is None else grid
        if grid != grid_search.AUTO and schedule is None and segments is None:
            options = asked_of(options, _shape(grid))
        profile = self.plan.machine if machine is None else _profile(machine)
        check(options, grid, ranks, profile)
        tell = progress or logged()
        return _with_others(_on_grid(self.subject, grid, ranks, profile, options, tell), options.batch_sizes, tell)

    def for_rows(self, rows: int, inputs: Sequence[str] = (), progress: Progress | None = None) -> Compiled:
        """The same model compiled for a batch of so many rows, its parameters stored as they are here.

        `inputs` are those that have so many; without, all that may have another number. Raises CaptureError where the
        model cannot be captured with so many rows, and ConfigError where its parameters cannot lie as they do here.
        """
        tell, plan, example = progress or logged(), self.plan, self.subject.captured.batch.given
        examples = example.with_rows(inputs or plan.batch.inputs, rows)
        with timed(tell, "captured") as said, example.as_then(self.model):
            captured = captured_of(self.model, examples, plan.name, plan.options)
            said(f"{rows} rows, {len(captured.graph.nodes)} operators")
        subject = Subject.of(self.model, captured, plan.model, tell)
        stored = {item.name: item.layouts for item in plan.parameters if item.kind != "constant"}
        request = Request(subject.annotated, plan.shape, plan.machine, plan.options, stored)
        if plan.batch.division is None:
            return _planned_and_emitted(subject, request, tell, microbatch_search.ONE)
        count = min(plan.batch.division.microbatches, rows)
        try:
            return _planned_and_emitted(subject, request, tell, MicrobatchCount(count, plan.batch.division.why))
        except (ConfigError, CaptureError) as error:
            if request.grid.queue:
                raise
            tell("divided", f"not with {rows} rows: {str(error).splitlines()[0]}", 0.0)
        return _planned_and_emitted(subject, request, tell, microbatch_search.ONE)

    def __repr__(self) -> str:
        return f"Compiled({self.plan.name!r}, grid={self.plan.grid!r}, {self.plan.predicted.seconds * 1e3:.3g} ms per step)"


def compile(
    model: Any,  # noqa: ANN401 (a module or a function of one)
    example_inputs: Any,  # noqa: ANN401 (a tuple, a dict, or a function of one)
    *,
    grid: str | GridShape,
    machine: str | Path | Machine = "cpu",
    memory: str | float | None = None,
    solver: str = "auto",
    pin: Sequence[str] = (),
    ban: Sequence[str] = (),
    optimizer: str = "adamw",
    loss: str | None = None,
    outputs: str | Sequence[str] = (),
    name: str | None = None,
    source: ModelSource | None = None,
    time_limit: float = 60.0,
    measure: bool = False,
    recompute: str = "auto",
    plan: str = baselines.FREE,
    ranks: int | None = None,
    batch_sizes: Sequence[int] = (),
    microbatches: int | str | None = None,
    schedule: str = "auto",
    segments: int | None = None,
    queue: bool = False,
    parts: bool = False,
    progress: Progress | None = None,
) -> Compiled:
    """Compile a model for a process grid; ``grid="auto"`` finds the best one of `ranks` ranks.

    `model` is an ``nn.Module`` or a function that returns one (called on the meta device); `example_inputs` a tuple or dict of
    tensors, or a function returning one. `machine` is a shipped profile's name, the path of a TOML file, or a `Machine`; `memory`
    the limit per rank, as bytes or ``"16GiB"``; without it the machine's. `solver` is ``auto``, ``ilp``, ``search`` or
    ``exhaustive``; `pin` fixes choices (``"*.c_fc: n@model"``, ``"wte.weight: shard 0@data"``) and `ban` rules them out;
    `optimizer` is what its state is accounted for: ``sgd``, ``momentum`` or ``adamw``; `loss` names the output to train on,
    `outputs` others that the program returns beside it (``("logits",)``); `time_limit` is in seconds, pricing included. With
    `measure` every distinct call is timed here at its local shapes, in seconds to minutes, and the plan is made by these times.
    `recompute`: whether backward computes repeated blocks again, ``auto`` (for the limit), ``always``, ``never``. Rows of
    `batch_sizes` that the program does not take get their own programs. `microbatches`: into how many a batch is divided
    (docs/training.md), ``auto``: by the limit; with `queue` replicas draw them. `plan` is ``auto``, or one to compare with:
    ``data``, ``model``, ``domain``, ``megatron``, ``zero``, ``integrated``. `schedule` and `segments`: docs/place_axes.md. With
    `parts` ranks are given their parts of the inputs, and hold no more (docs/data.md).

    Raises CaptureError, ConfigError, or InfeasiblePlan where no plan meets the memory limit.
    """
    options = options_of(
        memory, solver, optimizer, pin, ban, loss, time_limit, outputs, measure, recompute, plan, batch_sizes,
        microbatches, schedule, segments, parts,
    )  # fmt: skip
    return compile_with(options, model, example_inputs, grid, machine, ranks, name, source, queue, progress)


def compile_with(
    options: Options,
    model: Any,  # noqa: ANN401 (as in compile)
    example_inputs: Any,  # noqa: ANN401
    grid: str | GridShape,
    machine: str | Path | Machine,
    ranks: int | None = None,
    name: str | None = None,
    source: ModelSource | None = None,
    queue: bool = False,
    progress: Progress | None = None,
) -> Compiled:
    """`compile` for options that are a record already. Raises what `compile` raises."""
    tell, profile = progress or logged(), _profile(machine)
    grid = _shape(grid).with_queue() if queue and grid != grid_search.AUTO else grid
    check(options, grid, ranks, profile)
    # nn.Module -> Graph
    with timed(tell, "captured") as said:
        captured = captured_of(model, example_inputs, name or _name_of(model), options)
        said(f"{len(captured.graph.nodes)} operators, {_count(captured.graph)} parameters")
    # Graph -> AnnotatedGraph
    subject = Subject.of(model, captured, source or LIVE, tell)
    # AnnotatedGraph -> Candidate -> program.py, Plan
    compiled = _on_grid(subject, grid, ranks, profile, options, tell, queue=queue)
    return _with_others(compiled, options.batch_sizes, tell)


def _with_others(compiled: Compiled, sizes: Sequence[int], tell: Progress) -> Compiled:
    """With programs for those of the sizes that the program does not take."""
    programs = [compiled]
    for rows in sizes:
        if not any(other.plan.batch.accepts(rows) for other in programs):
            programs.append(compiled.for_rows(rows, progress=tell))
    _, *others = programs
    batch = replace(compiled.plan.batch, others=tuple(other.plan.batch.rows for other in others))
    return replace(compiled, plan=replace(compiled.plan, batch=batch), others=tuple(others))


def _on_grid(
    subject: Subject,
    grid: str | GridShape,
    ranks: int | None,
    machine: Machine,
    options: Options,
    tell: Progress,
    *,
    queue: bool = False,
) -> Compiled:
    """Plan a captured model on a grid, or on the best one of so many ranks, of which the first axis may have to be a queue."""

    def on(shape: GridShape, options: Options, below: float = math.inf) -> Compiled:
        with as_internal_error(f"compiling {subject.captured.graph.name} for grid {shape}"):
            request = Request(subject.annotated, shape, machine, options, below=below)
            check_divisible(request)
            return _planned_and_emitted(subject, request, tell)

    if grid != grid_search.AUTO:
        return on(_shape(grid), options)
    assert ranks is not None
    best, tried = grid_search.search(ranks, machine, options, on, queue=queue)
    options = asked_of(options, _shape(best.plan.grid))
    return replace(best, plan=replace(best.plan, options=options), grids=tried)


@dataclass(frozen=True, slots=True)
class ReadyPlan:
    """What is ready to be written: the request that it answers, the candidate, and how the graph and the batch are divided."""

    request: Request
    candidate: Candidate
    placed: Placed | None
    division: DividedModel | None

    @property
    def seconds(self) -> float:
        """The predicted step."""
        return self.undisturbed + self.stalls

    @property
    def undisturbed(self) -> float:
        """The predicted step where nothing stops a rank."""
        return self.placed.placement.makespan if self.placed else self.candidate.seconds

    @property
    def stalls(self) -> float:
        """What stalls of ranks are expected to add."""
        if self.placed:
            return least_stalled_seconds(self.undisturbed, self.request.machine)
        return stalls_of_step(self.candidate.parts, self.request.microbatches)

    @property
    def unlimited(self) -> bool:
        """Whether it was found without a memory limit."""
        return self.candidate.built.problem.limit is None

    def improved(self, request: Request) -> Request:
        """What asks for a shorter step, and knows what this plan has shown."""
        beside = self.placed.beside if self.placed else 0.0
        return replace(request, below=min(request.below, self.seconds), beside=beside)


def _planned_and_emitted(
    subject: Subject, request: Request, tell: Progress, count: MicrobatchCount | None = None
) -> Compiled:
    """Planned with so many micro-batches, or with as many as the options ask for, and written.

    A call that its record fails runs whole from then on, and planning starts again.
    """
    while True:
        try:
            ready = _planned_with(subject, request, tell, count) if count else _planned(subject, request, tell)
            if request.grid.place and ready.seconds >= request.below:
                raise NotShorter(ready.seconds)
            # Candidate -> program.py, Plan
            with timed(tell, "emitted") as said:
                parts = (ready.candidate, subject, ready.request.options, ready.placed, ready.division)
                plan, text = emitted(*parts)
                plan = replace(plan, predicted=replace(plan.predicted, stalls=ready.stalls))
                said(f"{len(text.splitlines())} lines")
            built, solution = ready.candidate.built, ready.candidate.solution
            return Compiled(plan, text, subject, built, solution, division=ready.division)
        except BrokenCall as broken:
            subject = subject.without(broken)
            request = replace(request, annotated=subject.annotated)
            tell("fell back", str(broken), 0.0)


def _planned(subject: Subject, request: Request, tell: Progress) -> ReadyPlan:
    asked = request.options.microbatches or (
        microbatch_search.AUTO if request.grid.place or request.grid.queue else "1"
    )
    if asked != microbatch_search.AUTO:
        return _planned_with(subject, request, tell, MicrobatchCount(int(asked), "asked for"))
    rows, on = subject.captured.batch.rows, partial(_planned_with, subject, request, tell)
    if request.grid.queue:
        return microbatch_search.search_for_queue(rows, request.grid.replicas, on, tell)
    if request.grid.place:

        def shorter(count: MicrobatchCount, than: ReadyPlan | None) -> ReadyPlan:
            asked = than.improved(request) if than else request
            return _planned_with(subject, asked, tell, count)

        return microbatch_search.search_for_pipeline(rows, request.grid.positions, shorter, tell)
    return microbatch_search.search(rows, request.grid.size, on, tell)


def _planned_with(subject: Subject, request: Request, tell: Progress, count: MicrobatchCount) -> ReadyPlan:
    """All that follows annotation and comes before the text."""
    microbatch_search.check_queue(request.grid, count.microbatches)
    # AnnotatedGraph -> DividedModel
    division = subject.divided(count, request.options, tell) if count.microbatches > 1 else None
    if division is not None:
        request = replace(request, annotated=division.annotated, microbatches=count.microbatches)
    # AnnotatedGraph -> Candidate
    candidate, placed = divided(request, tell) if request.grid.place else (planned(request, tell), None)
    return ReadyPlan(request, candidate, placed, division)


def _shape(grid: str | GridShape) -> GridShape:
    return grid if isinstance(grid, GridShape) else GridShape.parse(grid)


def _profile(machine: str | Path | Machine) -> Machine:
    return machine if isinstance(machine, Machine) else machines.load(machine)


def _name_of(model: object) -> str:
    return str(getattr(model, "__name__", type(model).__name__)).lower()


def _count(graph: Graph) -> str:
    total = sum(graph.values[item.value].numel for item in graph.parameters if item.kind in ("parameter", "frozen"))
    return f"{total / 1e6:.1f}M" if total >= 1e5 else str(total)
