"""The way through: model -> graph -> problem -> decision -> steps -> text, and the record of it all.

capture    autopar.capture                an nn.Module becomes a Graph
price      autopar.partitioner.formulation.priced_problem      every strategy of every call, and every conversion, in seconds
and bytes solve      autopar.partitioner.solvers.solve      one strategy per call
lower      autopar.codegen.lower          local calls and conversion primitives, in order
check      autopar.codegen.soundness          sound on every rank
emit       autopar.codegen.emit        one readable SPMD file
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopar.codegen import emit as program
from autopar.codegen import soundness, steps
from autopar.codegen.symbolic_batch import Baked, variant
from autopar.costmodel.memory import optimizer_copies
from autopar.errors import ConfigError, nearest, refusal
from autopar.internal_errors import BrokenCall, ours
from autopar.ir import machine as machines
from autopar.ir.graph import Graph
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine
from autopar.ir.plan import BatchPlan, ModelSource, Options, Place, Plan
from autopar.ops.broken_records import whole_from_now
from autopar.ops.discovery.discover import explore
from autopar.ops.lookup import without_record
from autopar.partitioner.formulation import priced_problem
from autopar.partitioner.problem import Solution
from autopar.partitioner.solvers.solve import check_method
from autopar.planning import alternatives, baselines, pins, plan_record
from autopar.planning import grid_search as grids
from autopar.planning.candidate import Outcome
from autopar.planning.planner import planned
from autopar.progress import Progress, logged, timed

if TYPE_CHECKING:
    import torch

    from autopar.capture import Captured

RECOMPUTE = ("auto", "always", "never")


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled model: the plan, the program's source, and what they were made from.

    `grids` are those that were tried, where the grid was to be found. `others` are the programs for batches of other sizes
    than `plan.batch` takes.
    """

    plan: Plan
    source: str
    graph: Graph
    constants: Mapping[str, torch.Tensor]
    built: priced_problem.Built
    solution: Solution
    model: object
    captured: Captured
    grids: tuple[grids.Tried, ...] = ()
    others: tuple[Compiled, ...] = ()

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
        ranks: int | None = None,
        progress: Progress | None = None,
    ) -> Compiled:
        """What if: the same model planned anew, without capturing it again. What is left out stays as it was compiled.

        ``memory="machine"`` takes a limit away and leaves the machine's own. Pins and bans name axes: where they are
        left out and the grid has other axes, they are refused as `compile` refuses them.

        Raises what `compile` raises after the capture: ConfigError, InfeasiblePlan.
        """
        old = self.plan.options
        options = replace(
            old,
            memory=old.memory if memory is None else None if memory == "machine" else _limit(memory),
            solver=old.solver if solver is None else solver,
            pins=old.pins if pin is None else tuple(pin),
            bans=old.bans if ban is None else tuple(ban),
            optimizer=old.optimizer if optimizer is None else optimizer,
            time_limit=old.time_limit if time_limit is None else time_limit,
            measure=old.measure if measure is None else measure,
            recompute=old.recompute if recompute is None else recompute,
            plan=old.plan if plan is None else plan,
        )
        where = self.plan.grid if grid is None else grid
        profile = self.plan.machine if machine is None else _profile(machine)
        _check(options, where, ranks, profile)
        given = (self.captured, self.model, profile, options, self.plan.model, progress or logged())
        return _with_others(_on_grid(where, ranks, *given), options.batch_sizes, progress or logged())

    def for_rows(self, rows: int, inputs: Sequence[str] = (), progress: Progress | None = None) -> Compiled:
        """The same model compiled for a batch of so many rows, its parameters stored as they are here.

        `inputs` are those that have so many; without, all that may have another number. Raises CaptureError where the
        model cannot be captured with so many rows, and ConfigError where its parameters cannot lie as they do here.
        """
        tell, plan, example = progress or logged(), self.plan, self.captured.batch.given
        examples = example.with_rows(inputs or plan.batch.inputs, rows)
        with timed(tell, "captured") as said, example.as_then(self.model):
            captured = _captured(self.model, examples, plan.name, plan.options)
            said(f"{rows} rows, {len(captured.graph.nodes)} operators")
        with ours(f"compiling {captured.graph.name}"):
            explore(without_record(captured.graph), tell)
        stored = {item.name: item.layouts for item in plan.parameters if item.kind != "constant"}
        return _finish(captured, self.model, _shape(plan.grid), plan.machine, plan.options, plan.model, tell, stored)

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
    progress: Progress | None = None,
) -> Compiled:
    """Compile a model for a process grid; ``grid="auto"`` finds the best one of `ranks` ranks.

    `model` is an ``nn.Module`` or a function that returns one (called on the meta device); `example_inputs` a tuple or dict of
    tensors, or a function returning one. `machine` is a shipped profile's name, the path of a TOML file, or a `Machine`;
    `memory` the limit per rank, as bytes or ``"16GiB"``; without it the machine's.
    `solver` is ``auto``, ``ilp``, ``search`` or ``exhaustive``; `pin` fixes choices (``"*.c_fc: n@model"``,
    ``"wte.weight: shard 0@data"``) and `ban` rules them out; `optimizer` is what its state is accounted for: ``sgd``,
    ``momentum`` or ``adamw``; `loss` names the output to train on, `outputs` others that the program returns beside it
    (``("logits",)``); `time_limit` is in seconds, pricing included. With `measure` every distinct call is timed on this machine at
    its exact local shapes, which takes seconds to minutes the first time, and the plan is made by these times.
    `recompute`: whether backward computes repeated blocks again, to keep less, ``auto`` (for the limit), ``always``, ``never``.
    `batch_sizes` are numbers of rows that batches will have: those that the program does not take get programs of their own.
    `plan` is ``auto``, or a fixed one to compare with: ``data``, ``model``, ``domain``, ``megatron``, ``zero``, ``integrated``.

    Raises CaptureError, ConfigError, or InfeasiblePlan where no plan meets the memory limit.
    """
    tell, profile = progress or logged(), _profile(machine)
    given = (tuple(pin), tuple(ban), loss, time_limit, _names(outputs), measure, recompute, plan, _counts(batch_sizes))
    options = Options(None if memory is None else _limit(memory), solver, optimizer, *given)
    _check(options, grid, ranks, profile)
    with timed(tell, "captured") as said:
        captured = _captured(model, example_inputs, name or _name_of(model), options)
        said(f"{len(captured.graph.nodes)} operators, {_count(captured.graph)} parameters")
    with ours(f"compiling {captured.graph.name}"):
        explore(without_record(captured.graph), tell)
    found = _on_grid(grid, ranks, captured, model, profile, options, source or ModelSource("", ""), tell)
    return _with_others(found, options.batch_sizes, tell)


def _captured(model: Any, example_inputs: Any, name: str, options: Options) -> Captured:  # noqa: ANN401 (as in compile)
    from autopar.capture import capture

    return capture(model, example_inputs, name=name, loss=options.loss, outputs=options.outputs)


def _with_others(found: Compiled, sizes: Sequence[int], tell: Progress) -> Compiled:
    """With programs for those of the sizes that the program does not take."""
    programs = [found]
    for rows in sizes:
        if not any(one.plan.batch.accepts(rows) for one in programs):
            programs.append(found.for_rows(rows, progress=tell))
    _, *others = programs
    batch = replace(found.plan.batch, others=tuple(one.plan.batch.rows for one in others))
    return replace(found, plan=replace(found.plan, batch=batch), others=tuple(others))


def _on_grid(
    grid: str | GridShape,
    ranks: int | None,
    captured: Captured,
    model: object,
    machine: Machine,
    options: Options,
    source: ModelSource,
    tell: Progress,
) -> Compiled:
    """Plan a captured model on a grid, or on the best one of so many ranks."""

    def on(shape: GridShape, options: Options) -> Compiled:
        with ours(f"compiling {captured.graph.name} for grid {shape}"):
            return _finish(captured, model, shape, machine, options, source, tell)

    if grid == grids.AUTO:
        assert ranks is not None
        return grids.search(ranks, machine, options, on)
    return on(_shape(grid), options)


def _finish(
    captured: Captured,
    model: object,
    grid: GridShape,
    machine: Machine,
    options: Options,
    source: ModelSource,
    tell: Progress,
    stored: Mapping[str, Sequence[str]] | None = None,
) -> Compiled:
    """All that follows the capture: price, solve, emit; parameters lie as `stored` says."""
    while True:
        try:
            return _finished(captured, model, grid, machine, options, source, tell, stored)
        except BrokenCall as broken:
            captured = _without(captured, broken)
            tell("fell back", str(broken), 0.0)


def _without(captured: Captured, broken: BrokenCall) -> Captured:
    """The same model, in which the operator of that call runs whole on every rank."""
    larger = captured.batch.larger
    names = {node.name for node in larger.nodes} if larger is not None else set()
    larger = whole_from_now(larger, broken) if larger is not None and broken.name in names else None
    fixed = captured.batch.fixed or ("" if larger is not None else broken.why)
    batch = replace(captured.batch, larger=larger, fixed=fixed)
    return replace(captured, graph=whole_from_now(captured.graph, broken), batch=batch)


def _finished(
    captured: Captured,
    model: object,
    grid: GridShape,
    machine: Machine,
    options: Options,
    source: ModelSource,
    tell: Progress,
    stored: Mapping[str, Sequence[str]] | None,
) -> Compiled:
    """`_finish`, where no record fails. Raises BrokenCall."""
    graph = captured.graph
    limit = float(machine.memory_bytes) if options.memory is None else options.memory

    def wishes_of(asked: Options) -> pins.Wishes:
        wishes = pins.stored(pins.apply(_wishes(asked, grid), graph, grid), graph, stored or {})
        return wishes if asked.plan == baselines.FREE else baselines.narrowed(asked.plan, captured, grid, wishes)

    found = planned(graph, grid, machine, limit, options, wishes_of, tell)
    with timed(tell, "emitted") as said:
        plan, text = emitted(found, options, source, captured)
        said(f"{len(text.splitlines())} lines")
    return Compiled(plan, text, graph, captured.constants, found.built, found.solution, model, captured)


def _wishes(options: Options, grid: GridShape) -> tuple[pins.Pin, ...]:
    return (*pins.parse(options.pins, grid), *pins.parse(options.bans, grid, ban=True))


def _shape(grid: str | GridShape) -> GridShape:
    return grid if isinstance(grid, GridShape) else GridShape.parse(grid)


def _profile(machine: str | Path | Machine) -> Machine:
    return machine if isinstance(machine, Machine) else machines.load(machine)


def _names(outputs: str | Sequence[str]) -> tuple[str, ...]:
    return (outputs,) if isinstance(outputs, str) else tuple(outputs)


def _counts(sizes: Sequence[int]) -> tuple[int, ...]:
    strange = [f"{rows!r}" for rows in sizes if not isinstance(rows, int) or rows < 1]
    if strange:
        raise ConfigError(refusal("batch sizes", ", ".join(strange), "a batch has a whole number of rows, 1 or more"))
    return tuple(sorted(set(sizes)))


def _limit(memory: str | float) -> float:
    return float(machines.parse_bytes(memory))


def _check(options: Options, grid: str | GridShape, ranks: int | None, machine: Machine) -> None:
    """Refuse what would only be found out after the capture."""
    grids.check(grid, ranks)
    if grid != grids.AUTO:
        machines.check_ranks(machine, _shape(grid))
        _wishes(options, _shape(grid))
    check_method(options.solver)
    baselines.check(options.plan)
    optimizer_copies(options.optimizer)
    if options.recompute not in RECOMPUTE:
        given = f"{options.recompute!r} is unknown{nearest(options.recompute, RECOMPUTE)}"
        raise ConfigError(refusal("recompute", given, "repeated blocks are computed again by one of those", RECOMPUTE))
    if not 0 < options.time_limit < math.inf:
        raise ConfigError(
            refusal("time limit", f"{options.time_limit:g} s", "a time limit is a number of seconds above 0")
        )


def emitted(found: Outcome, options: Options, source: ModelSource, captured: Captured) -> tuple[Plan, str]:
    """The plan and the program of an outcome. Raises BrokenCall where a call is unsound under its record."""
    built, decision, lowered = found.built, found.decision, found.program
    _check_sound(lowered, decision, built.grid)
    draft = plan_record.plan(found, options, source)
    (text, places), rows = _text(built, decision, lowered, draft, captured)
    outputs = plan_record.outputs(built.graph, captured.batch.larger if not rows.fixed else None, lowered)
    hashed = hashlib.sha256(text.encode()).hexdigest()
    draft = replace(draft, batch=rows, outputs=outputs, evaluation=captured.evaluation, places=places)
    draft = replace(draft, training=captured.training, evaluates=captured.evaluates)
    return replace(draft, program_sha256=hashed), text


def _check_sound(lowered: steps.Program, decision: priced_problem.Decision, grid: GridShape) -> None:
    """Raises BrokenCall where a call is unsound under its record."""
    try:
        soundness.check(lowered, decision.homes, grid)
    except soundness.UnsoundProgram as error:
        if not error.call:
            raise
        raise BrokenCall(error.call, f"its record is unsound: {error}") from error


def _text(
    built: priced_problem.Built,
    decision: priced_problem.Decision,
    lowered: steps.Program,
    draft: Plan,
    captured: Captured,
) -> tuple[tuple[str, tuple[Place, ...]], BatchPlan]:
    """The program with its places, for any number of rows where the model allows it, and what it says about its batch."""
    from autopar.runtime import __all__ as exported

    seconds = {node.name: node.seconds_forward + node.seconds_backward for node in draft.nodes}
    inside = {node.name: plan_record.exchanged(node) for node in draft.nodes}
    heading = program.Text(built.graph.name, Path(draft.model.path).name, built.grid, seconds, inside)
    emit = partial(program.emit, built.graph, decision, lowered, heading, frozenset(exported))
    batch = captured.batch
    known = BatchPlan(batch.rows, batch.inputs, batch.fixed, (), batch.sizes)
    if batch.larger is None:
        return emit(), known
    try:
        one = variant(built.graph, batch.larger, decision.homes)
        return emit(one), replace(known, filled=plan_record.filled_by_rows(built, decision, one))
    except Baked as why:
        return emit(), replace(known, fixed=str(why))


def _name_of(model: object) -> str:
    return str(getattr(model, "__name__", type(model).__name__)).lower()


def _count(graph: Graph) -> str:
    total = sum(graph.values[item.value].numel for item in graph.parameters if item.kind in ("parameter", "frozen"))
    return f"{total / 1e6:.1f}M" if total >= 1e5 else str(total)
