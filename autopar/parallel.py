"""``autopar.parallelize(model, ...)``: an ordinary training script, started on MPI ranks, trains the model on all of them.

    parallel = autopar.parallelize(model, example_inputs, grid="4x2")     # inside `mpiexec -n 8 python -m mpi4py train.py`
    optimizer = torch.optim.AdamW(parallel.parameters())
    loss = parallel(**batch); loss.backward(); optimizer.step()

Rank 0 compiles; all ranks receive the same program and plan, and keep their parts of the parameters.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autopar import errors
from autopar.errors import AutoparError
from autopar.grid import GridShape
from autopar.grids import AUTO
from autopar.plan import Plan, from_json, to_json
from autopar.profile import FILE
from autopar.runtime import profile_run
from autopar.runtime.description import Description, parse_description
from autopar.runtime.grid import Grid
from autopar.runtime.initial import initial_values, module_values
from autopar.runtime.profiler import Profiler
from autopar.runtime.program import Program
from autopar.runtime.session import Parallel
from autopar.runtime.together import together
from autopar.runtime.transport.base import Comm
from autopar.runtime.transport.world import default_world

Model = nn.Module | Callable[[], nn.Module]


class Parallelized(Parallel):
    """A `Parallel` that knows the plan it follows and the source of the program it runs."""

    def __init__(
        self,
        program: Program,
        description: Description,
        values: Iterator[tuple[str, Tensor]],
        plan: Plan,
        source: str,
        seed: int,
    ) -> None:
        super().__init__(program, description, values, seed=seed)
        self.plan = plan
        self.source = source

    def profiler(self) -> Profiler:
        """Profiles steps of this model: ``with profiler.step(optimizer): loss = parallel(**batch); ...`` (docs/report.md)."""
        return Profiler(self, [(place.function, place.text) for place in self.plan.places])

    def save_profile(self, profiler: Profiler, folder: str | Path) -> None:
        """Write program, plan and what was profiled into `folder`, for ``autopar report``. Collective.

        Raises ConfigError on all ranks where no step was profiled, and CommError where the folder cannot be written.
        """
        plan, folder = to_json(self.plan), Path(folder)
        profile = profile_run.gathered(self, profiler, self.source, plan)
        with together(self.grid.comm, f"writing {folder}"):
            if self.grid.rank == 0:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "program.py").write_text(self.source, encoding="utf-8", newline="\n")
                (folder / "plan.json").write_text(plan, encoding="utf-8", newline="\n")
                profile_run.save(profile, folder / FILE)


def parallelize(
    model: Model,
    example_inputs: Any,  # noqa: ANN401 (a tuple, a dict, or a function of one)
    *,
    grid: str | GridShape,
    machine: str | Path = "cpu",
    memory: str | float | None = None,
    solver: str = "auto",
    pin: Sequence[str] = (),
    ban: Sequence[str] = (),
    optimizer: str = "adamw",
    loss: str | None = None,
    outputs: str | Sequence[str] = (),
    seed: int = 0,
) -> Parallelized:
    """The model on the ranks of this job, one part per rank. Collective.

    Arguments are those of `autopar.compile`; ``grid="auto"`` takes the best grid of the job's ranks. A live module keeps its
    values; a function's are made from `seed`, each rank making its part; dropout draws from `seed`, too. Returns an
    ``nn.Module`` whose forward takes whole inputs on every rank and returns the loss; with `outputs` an object with the
    model's own fields, ``.loss`` and these, each put together on all ranks when it is first read.

    A batch may have any number of rows, unless the model counts them in a way of its own (``plan.batch.fixed``). ``eval()``
    and ``train()`` are as usual where the model differs in batch norm and dropout alone (``plan.evaluation``). Called under
    ``torch.autocast``, this compiles a program with the casts that autocast makes.

    Raises what `autopar.compile` raises, on every rank, and ProgramMismatch where the job's ranks are not the grid's.
    """
    world = default_world()
    ranks = world.size if grid == AUTO else None
    shape = grid if isinstance(grid, GridShape) or ranks is not None else GridShape.parse(grid)
    if isinstance(shape, GridShape) and world.size != shape.size:
        Grid(shape, world)  # raises, and says which launcher to use

    def compiled() -> tuple[str, str, dict[str, Tensor]]:
        from autopar.compiler import compile

        result = compile(
            model, example_inputs, grid=shape, machine=machine, memory=memory, solver=solver, pin=pin, ban=ban,
            optimizer=optimizer, loss=loss, outputs=outputs, ranks=ranks,
        )  # fmt: skip
        return result.source, to_json(result.plan), dict(result.constants)

    source, text, constants = _from_rank0(world, compiled)
    description = parse_description(text, "the plan")
    known = {name for item in description.parameters for name in (item.name, *item.aliases)}
    values = ((name, value) for name, value in _values(model, constants, world, seed) if name in known)
    return Parallelized(_load(source), description, values, from_json(text, "the plan"), source, seed)


def _from_rank0(
    world: Comm, work: Callable[[], tuple[str, str, dict[str, Tensor]]]
) -> tuple[str, str, dict[str, Tensor]]:
    """What rank 0 makes, on every rank; its error is everybody's."""
    source, text, error = "", "", None
    constants: dict[str, Tensor] = {}
    if world.rank == 0:
        try:
            source, text, constants = work()
        except AutoparError as raised:
            error = raised
    known = [one for one in type(error).__mro__ if one.__module__ == "autopar.errors"] if error else []
    told = world.gather_objects([source, text, known[0].__name__ if known else "", str(error or "")])[0]
    source, text, kind, message = (str(one) for one in told)  # type: ignore[attr-defined]
    if error is not None:
        raise error
    if kind:
        raise getattr(errors, kind)(message)
    return source, text, constants


def _values(model: Model, constants: Mapping[str, Tensor], world: Comm, seed: int) -> Iterator[tuple[str, Tensor]]:
    """The initial values; constants are known to rank 0 only."""
    rows = [[name, list(one.shape), str(one.dtype).removeprefix("torch.")] for name, one in sorted(constants.items())]
    for name, shape, dtype in world.gather_objects(rows)[0]:  # type: ignore[attr-defined]
        value = constants[name].contiguous() if name in constants else torch.empty(shape, dtype=getattr(torch, dtype))
        world.broadcast(value, 0)
        yield name, value
    yield from module_values(model) if isinstance(model, nn.Module) else initial_values(model, seed)


def _load(source: str) -> Program:
    """Execute a program's source; tracebacks show its lines."""
    name = "<program by autopar>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space: dict[str, Any] = {"__name__": "autopar_program", "torch": torch}
    exec(compile(source, name, "exec"), space)  # our own text, made a moment ago
    program: Program = space["PROGRAM"]
    return program
