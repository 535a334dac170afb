"""``autopar.parallelize(model, ...)``: an ordinary training script, started on MPI ranks, trains the model on all of them.

    parallel = autopar.parallelize(model, example_inputs, grid="4x2")     # inside `mpiexec -n 8 python -m mpi4py train.py`
    optimizer = torch.optim.AdamW(parallel.parameters())
    loss = parallel(**batch); loss.backward(); optimizer.step()

``autopar.load(folder).parallel()`` does the same with a compiled folder, without compiling; the program runs as it stands there.

Rank 0 compiles; all ranks receive the same program and plan, and keep their parts of the parameters. A live module has
rank 0's values, of which the others receive their parts; a function's values are made from a seed, each rank making its
part. A batch may have any number of rows, unless the model counts them in a way of its own (``plan.batch.fixed``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from autopar import artifact, model_file
from autopar.artifact import CONSTANTS, PARAMETERS, PROGRAM, CompiledFolder
from autopar.errors import ConfigError, refusal
from autopar.ir.batch_sizes import ANY
from autopar.ir.grid import GridShape
from autopar.ir.plan import Plan
from autopar.ir.plan_file import from_json, to_json
from autopar.ir.profile import FILE
from autopar.model_file import ModelFile
from autopar.planning.grid_search import AUTO
from autopar.progress import Progress
from autopar.runtime.diagnostics.collective_errors import by_rank0, together
from autopar.runtime.diagnostics.failure import end_scripts
from autopar.runtime.grid.grid import check_ranks
from autopar.runtime.parameters import distribute, sources
from autopar.runtime.parameters.sources import ComparedSource, Parted, Source, UnsetTensor
from autopar.runtime.parameters.weight_files import Names
from autopar.runtime.profiling import profile_steps
from autopar.runtime.profiling.profiler import Profiler
from autopar.runtime.program.from_text import program_of
from autopar.runtime.program.plan_reader import Description, parse_description
from autopar.runtime.program.program import Program
from autopar.runtime.session import compiled_job
from autopar.runtime.session.batch_programs import BatchProgram
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.session.function_values import function_values, with_constants
from autopar.runtime.session.inputs import refused_rows
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training.attached_scheduler import AttachedScheduler
from autopar.runtime.training.balance_settings import OFF, BalanceSettings, settings_of
from autopar.runtime.transport.base import Comm
from autopar.runtime.transport.world import default_world, simulated_world

if TYPE_CHECKING:
    from autopar.compiler import Compiled
    from autopar.ir.machine import Machine

LOG = logging.getLogger("autopar")
Model = nn.Module | Callable[[], nn.Module]


class Parallelized(Parallel):
    """A `Parallel` that knows the plan it follows and the source of the program it runs.

    `balance` moves boundaries between steps, if asked to: its `lines` say what was moved, its `reason` why no more.
    A batch of a size that none of its programs takes is compiled for when it first comes.
    """

    def __init__(
        self,
        program: Program,
        description: Description,
        values: Source,
        plan: Plan,
        source: str,
        seed: int,
        compiled: Compiled | None = None,
        balance: BalanceSettings | None = None,
    ) -> None:
        super().__init__(program, description, values, seed=seed)
        self.plan = plan
        self.source = source
        self._compiled = compiled  # on rank 0, and where not every number of rows is taken
        self.balance = AttachedScheduler(self, balance, self._tell) if balance is not None else None

    def _tell(self, move: str) -> None:
        if self.grid.rank == 0:
            LOG.info("%s: moved %s", self.plan.name, move)

    def free(self) -> None:
        """Give back what the gradient sums hold, and look at no step any more. The grid is the program's."""
        if self.balance is not None:
            self.balance.detach()
        super().free()

    def _another(self, source: Source) -> Parallelized:
        """A model by the same program from other values, which moves no boundaries."""
        known = (self.plan, self.source, self.seed, self._compiled)
        return Parallelized(self.program, self.description, source, *known)

    def _another_program(self, rows: int, having: Sequence[str]) -> BatchProgram:
        """Compile the model for so many rows in these inputs. Collective."""
        constants: dict[str, Tensor] = {}

        def compiled_texts() -> list[str]:
            if self._compiled is None:  # a compiled folder, without the model that it was made from
                raise refused_rows([program.description for program in self._programs], rows)
            LOG.info("%s is compiled for a batch of %d rows: %s", self.plan.name, rows, _why(self.plan))
            other = self._compiled.for_rows(rows, having)
            constants.update(other.constants)
            return [other.source, to_json(other.plan)]

        source, text = by_rank0(self.grid.comm, f"compiling for {rows} rows", compiled_texts)
        self._add(source, text, distribute.from_rank0(constants, self.grid.comm))
        return self._programs[-1]

    def _add(self, source: str, text: str, constants: Source) -> None:
        description = parse_description(text, "the plan")
        name = f"<program by autopar for {description.rows} rows>"
        self.add(program_of(source, name, self.grid), description, constants)

    def profiler(self) -> Profiler:
        """Profiles steps of this model: ``with profiler.step(optimizer): loss = parallel(**batch); ...`` (docs/report.md)."""
        return Profiler(self, [(place.function, place.text) for place in self.plan.places])

    def save_profile(self, profiler: Profiler, folder: str | Path) -> None:
        """Write program, plan and what was profiled into `folder`, for ``autopar report``. Collective.

        Raises ConfigError on all ranks where no step was profiled, and CommError where the folder cannot be written.
        """
        plan, folder = to_json(self.plan), Path(folder)
        profile = profile_steps.gathered(self, profiler, self.source, plan)
        with together(self.grid.comm, f"writing {folder}"):
            if self.grid.rank == 0:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "program.py").write_text(self.source, encoding="utf-8", newline="\n")
                (folder / "plan.json").write_text(plan, encoding="utf-8", newline="\n")
                profile_steps.save(profile, folder / FILE)


def parallelize(
    model: Model,
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
    time_limit: float = 60.0,
    measure: bool = False,
    recompute: str = "auto",
    plan: str = "auto",
    batch_sizes: Sequence[int] = (),
    microbatches: int | str | None = None,
    schedule: str = "auto",
    segments: int | None = None,
    queue: bool = False,
    parts: bool = False,
    progress: Progress | None = None,
    seed: int = 0,
    balance: str | BalanceSettings = OFF,
) -> Parallelized:
    """The model on the ranks of this job, one part per rank. Collective. Arguments are those of `autopar.compile`.

    What counts is what rank 0 is given. ``grid="auto"`` takes the best grid of the job's ranks. Returns an ``nn.Module`` whose
    forward takes whole inputs on every rank and returns the loss; with `outputs` an object with the model's own fields, ``.loss``
    and these, each put together on all ranks when it is first read. Called under ``torch.autocast``, this compiles a program with
    its casts. `seed` is that of dropout and of a model function. `balance`: "auto", or settings as in docs/balance.md.

    Raises what `autopar.compile` raises, and ProgramMismatch for other ranks than the grid's; what else ends rank 0, CommError.
    """

    def compiled() -> Compiled:
        from autopar.compiler import compile

        ranks = world.size if grid == AUTO else None
        return compile(
            model, example_inputs, grid=grid if ranks else _checked(grid, world.size), machine=machine, memory=memory,
            solver=solver, pin=pin, ban=ban, optimizer=optimizer, loss=loss, outputs=outputs, name=name,
            time_limit=time_limit, measure=measure, recompute=recompute, plan=plan, ranks=ranks, batch_sizes=batch_sizes,
            microbatches=microbatches, schedule=schedule, segments=segments, queue=queue, parts=parts, progress=progress,
        )  # fmt: skip

    return _started(compiled, model, world := default_world(), seed, settings_of(balance))


def _checked(grid: str | GridShape, ranks: int) -> GridShape:
    """The grid, which the job's ranks make up. Raises ConfigError, ProgramMismatch."""
    shape = grid if isinstance(grid, GridShape) else GridShape.parse(grid)
    check_ranks(shape, ranks)
    return shape


def _started(
    compiled: Callable[[], Compiled], model: Model, world: Comm, seed: int, balance: BalanceSettings | None
) -> Parallelized:
    """What rank 0 compiles, on every rank, with this rank's part of the model."""
    results: list[Compiled] = []

    def texts() -> list[object]:
        results.append(compiled())
        every = (results[0], *results[0].others)
        return [isinstance(model, nn.Module), *([program.source, to_json(program.plan)] for program in every)]

    if simulated_world() is None:
        end_scripts(world, lambda: True)
    live, (source, text), *others = by_rank0(world, "compiling", texts)
    result = results[0] if results else None
    description = parse_description(text, "the plan")
    known = {name for item in description.parameters for name in (item.name, *item.aliases)}
    constants = result.constants if result is not None else {}
    needed = {item.name for item in description.parameters if item.kind != "constant"}
    pairs = values_of(model, constants, world, seed, needed, live=live)
    values = ComparedSource(pair for pair in pairs if pair[0] in known)
    program, plan = program_of(source, "<program by autopar>"), from_json(text, "the plan")
    kept = result if plan.batch.fixed or plan.batch.sizes != ANY else None
    parallel = Parallelized(program, description, values, plan, source, seed, kept, balance)
    for i, (source, text) in enumerate(others):
        own = result.others[i].constants if result is not None else {}
        parallel._add(source, text, distribute.from_rank0(own, world))
    return parallel


def _why(plan: Plan) -> str:
    return plan.batch.fixed or f"the program takes {plan.batch.sizes}, for {'; '.join(plan.batch.sizes.why)}"


def values_of(
    model: Model, constants: Mapping[str, Tensor], world: Comm, seed: int, needed: Collection[str], *, live: bool
) -> Source:
    """The initial values, those of a live module and constants as rank 0 has them."""
    own = model if isinstance(model, nn.Module) else None
    values = distribute.live_values(own, world) if live else function_values(model, seed, needed)
    return with_constants(values, distribute.from_rank0(constants, world))


@dataclass(frozen=True, slots=True)
class LoadedFolder(CompiledFolder):
    """A compiled folder that can be run in a script."""

    def parallel(
        self,
        *,
        model: Model | None = None,
        weights: str | Path | None = None,
        names: Names | None = None,
        allow_missing: Sequence[str] = (),
        allow_unexpected: Sequence[str] = (),
        seed: int = 0,
        balance: str | BalanceSettings = OFF,
    ) -> Parallelized:
        """The program on the ranks of this job, as it stands in the folder. Collective.

        Values are those of `model` (a live module of rank 0, or a function), of the folder's model file, or those that were
        stored with a live model; then `weights` are loaded, as `Parallel.load_weights` does. Without any other values they
        have to be complete. What is noteworthy (an edited program, a changed model file) is logged.

        Raises ProgramMismatch where the job's ranks are not the grid's or do not read the same, CheckpointError for weights, and
        ConfigError where nothing says what the values are.
        """
        world = default_world()
        if simulated_world() is None:
            end_scripts(world, lambda: True)
        program = program_of(self.source, str(self.folder / PROGRAM))
        own = model is not None or weights is not None
        job = compiled_job.open_job(program, self.folder / PROGRAM, seed, own_values=own)
        values = self._values(job, model, seed)
        settings = settings_of(balance)
        parallel = Parallelized(
            program, job.description, values, self.plan, self.source, seed, compiled=None, balance=settings
        )
        compiled_job.add_others(parallel, job)
        lines = list(job.notes) if model is None else []
        if weights is not None:
            loaded = parallel.load_weights(
                weights, names, allow_missing=allow_missing, allow_unexpected=allow_unexpected
            )
            lines += loaded.lines
        for line in lines if world.rank == 0 else ():
            LOG.warning("%s: %s", self.plan.name, line)
        return parallel

    def model_file(self) -> ModelFile:
        """The model file that was compiled: its model, example inputs, batches and optimizer.

        Raises ConfigError where there is none, or it cannot be loaded.
        """
        if not self.plan.model.path:
            rule = "a folder names the model file that it was compiled from"
            fix = "the script that compiled it has the model and its inputs"
            raise ConfigError(refusal(str(self.folder), "compiled in Python, without a file", rule, fix=fix))
        return model_file.load(f"{self.folder / self.plan.model.path}:{self.plan.model.attribute}")

    def _values(self, job: CompiledJob, model: Model | None, seed: int) -> Source:
        """First values. Iterating is collective."""
        if model is None and (job.file is not None or (self.folder / PARAMETERS).exists()):
            return compiled_job.values(job, seed)
        known = {name for item in job.description.parameters for name in (item.name, *item.aliases)}
        pairs = self._given(job, model, seed)
        return ComparedSource(pair for pair in pairs if pair[0] in known)

    def _given(self, job: CompiledJob, model: Model | None, seed: int) -> Iterator[tuple[str, Tensor | Parted]]:
        file, named = self.folder / CONSTANTS, [item for item in job.description.parameters if item.kind != "constant"]
        constants = sources.from_file(file) if file.exists() else ()
        if model is None:
            return with_constants(((item.name, UnsetTensor(item.shape, item.dtype)) for item in named), constants)
        world = job.program.grid.comm
        live = by_rank0(world, "looking at the model", lambda: isinstance(model, nn.Module))
        values = values_of(model, {}, world, seed, {item.name for item in named}, live=live)
        return with_constants(values, constants)


def load(folder: str | Path) -> LoadedFolder:
    """Read a compiled folder. Raises PlanError where it is damaged, incomplete, or of another release."""
    known = artifact.load(folder)
    return LoadedFolder(known.plan, known.source, known.folder)
