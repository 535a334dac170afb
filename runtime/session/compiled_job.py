"""A compiled folder as one rank of a job finds it: program, plan, model file, and where the first values come from.

build/program.py              the program, which may have been edited
build/plan.json               names, shapes, dtypes, hashes
build/program_17.py           the same for a batch of 17 rows, where one program is not for all sizes; with its plan_17.json
build/constants.safetensors   tensors that capture lifted out of the model, if any
build/parameters.safetensors  the values of a model that was compiled live, and so has no file to make them from
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autopar.errors import ConfigError, ProgramMismatch, fix_for, refusal
from autopar.hugging_face.pretrained import Pretrained
from autopar.model_file import ModelFile, load
from autopar.runtime.data.input_part import InputPart, input_part
from autopar.runtime.data.own_batches import own_batches
from autopar.runtime.diagnostics import call_site
from autopar.runtime.diagnostics.collective_errors import agree, ranks_by, together
from autopar.runtime.parameters.distribute import live_values
from autopar.runtime.parameters.op_replay import RANDOM_STATE
from autopar.runtime.parameters.precision import in_precision
from autopar.runtime.parameters.sources import ComparedSource, Source, from_file
from autopar.runtime.program.from_text import program_of
from autopar.runtime.program.plan_reader import Description, read_description
from autopar.runtime.program.program import Program
from autopar.runtime.session.function_values import function_values, with_constants
from autopar.runtime.session.outputs import Outputs, at_path
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.transport.base import Comm
from autopar.version import __version__

Inputs = tuple[Any, ...] | dict[str, Any]
CALL_SITE = call_site.PASSED
PARAMETERS = "parameters.safetensors"


@dataclass(frozen=True, slots=True)
class CompiledJob:
    """What a folder holds. `notes` are lines worth telling: an edited program, a changed model file."""

    folder: Path
    program: Program
    description: Description
    file: ModelFile | None
    notes: tuple[str, ...]
    others: tuple[tuple[str, Description], ...] = ()  # texts of the programs for other numbers of rows


def open_job(program: Program, path: Path, seed: int, *, own_values: bool = False) -> CompiledJob:
    """Read the folder of the program at `path`, and make sure that all ranks have read the same. Collective.

    `seed` is set before the model file is loaded, for a model that it makes on loading; where the caller has values of its
    own, a model file that is not there is not missed. Raises ProgramMismatch, ConfigError or CommError, on all ranks.
    """
    comm = program.grid.comm
    with together(comm, "reading the compiled folder"):
        folder = path.resolve().parent
        description = read_description(path.with_name(path.name.replace("program", "plan")).with_suffix(".json"))
        text = hashlib.sha256(path.read_bytes()).hexdigest()
        others = tuple(_other(folder, rows) for rows in description.others)
    handshake(comm, {"plan": description.sha256, "program": text} | _facts(others) | _versions())
    with together(comm, "loading the model file"):
        torch.manual_seed(seed)
        file = None
        if not description.model_path and not (folder / PARAMETERS).exists() and not own_values:
            raise _fileless(folder, "compiled from a function or a class in Python: nothing says what it was")
        if description.model_path and not (own_values and not (folder / description.model_path).exists()):
            file = load(f"{folder / description.model_path}:{description.model_attribute}")
        notes = []
        if text != description.program_sha256:
            notes.append(f"{path.name} was edited after it was compiled; it runs as it stands")
        if file is not None and file.sha256 != description.model_sha256:
            notes.append(
                f"{file.path.name} has changed since it was compiled; compile again to bring the program up to it"
            )
        if file is not None and isinstance(file.model, Pretrained):
            whence = "are read from" if file.model.weights else "are drawn: there are no weights in"
            notes.append(f"first values {whence} {file.model.folder}")
    return CompiledJob(folder, program, description, file, tuple(notes), others)


def _other(folder: Path, rows: int) -> tuple[str, Description]:
    file = folder / f"program_{rows}.py"
    try:
        return file.read_text(encoding="utf-8"), read_description(folder / f"plan_{rows}.json")
    except (OSError, UnicodeDecodeError) as error:
        rule = f"plan.json speaks of a program for {rows} rows"
        raise ProgramMismatch(refusal(str(file), f"cannot be read: {error}", rule, fix="compile again")) from error


def _facts(others: Sequence[tuple[str, Description]]) -> dict[str, str]:
    facts = {}
    for source, description in others:
        facts[f"plan_{description.rows}"] = description.sha256
        facts[f"program_{description.rows}"] = hashlib.sha256(source.encode()).hexdigest()
    return facts


def handshake(comm: Comm, facts: Mapping[str, str]) -> None:
    """Raise ProgramMismatch on every rank unless all ranks state the same facts. Collective."""
    every = [dict(theirs) for theirs in comm.gather_objects(dict(facts))]  # type: ignore[call-overload]
    lines = []
    for fact in facts:
        groups = ranks_by((rank, str(theirs[fact])) for rank, theirs in enumerate(every))
        if len(groups) > 1:
            lines += [f"{fact} is {value[:20]} on rank {', '.join(map(str, ranks))}" for value, ranks in groups.items()]
    error = None
    if lines:
        rule = "every rank runs the same program, plan and versions"
        fix = "compile into a folder that all nodes share, and use one environment on all of them"
        error = ProgramMismatch(refusal("start of the job", "the ranks do not agree", rule, lines, fix))
    agree(comm, "start of the job", error)


def values(job: CompiledJob, seed: int) -> Source:
    """The initial values, from the model file with this seed, or as they were stored. Iterating is collective."""
    known = {name for item in job.description.parameters for name in (item.name, *item.aliases)}
    return ComparedSource((name, value) for name, value in _values(job, seed) if name in known)


def parallel(
    job: CompiledJob, seed: int, dtype: torch.dtype | None = None, source: Source | None = None, *, trains: bool = True
) -> Parallel:
    """The programs with their initial values, in training if that is what they are for. Collective.

    Raises ConfigError where they are to train, and only evaluate.
    """
    model = Parallel(job.program, job.description, source or values(job, seed), dtype, seed=seed)
    add_others(model, job)
    return model if model.training or not trains else model.train()


def add_others(model: Parallel, job: CompiledJob) -> None:
    """Have the model take batches of the numbers of rows that have programs of their own. Collective."""
    for text, description in job.others:
        file = job.folder / f"program_{description.rows}.py"
        constants = job.folder / f"constants_{description.rows}.safetensors"
        with together(model.grid.comm, f"reading {file.name}"):
            program = program_of(text, str(file), model.grid)
        model.add(program, description, from_file(constants) if constants.exists() else ())


def sequential(job: CompiledJob, seed: int) -> nn.Module:
    """The model itself, whole, with the same initial values, to train. Raises ConfigError where it was compiled live."""
    file = _need_file(job)
    if isinstance(file.model, nn.Module):
        module = copy.deepcopy(file.model)
    else:
        with RANDOM_STATE, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = file.model.whole() if isinstance(file.model, Pretrained) else file.model()
    return module if job.description.training else module.train()  # some of its modules stay in evaluation


def check_parts(job: CompiledJob, *names: str) -> None:
    """Raise ConfigError where one of these functions of the model file reads parts, on a grid with a queue: before it reads."""
    if job.program.grid.queue is None or job.file is None:
        return
    functions = ((name, getattr(job.file, name)) for name in names)
    reading = [
        f"{name}(part)" for name, function in functions if function is not None and ModelFile.wants_part(function)
    ]
    if reading:
        rule = "a replica of a queue may compute any micro-batch, and so is given whole batches"
        fix = f"write {', '.join(name.replace('part', '') for name in reading)}, or compile for a grid without a queue"
        problem = f"{', '.join(reading)} on grid {job.program.grid.shape}"
        raise ConfigError(refusal(job.file.path.name, problem, rule, fix=fix))


def batches(job: CompiledJob, seed: int = 0, part: Callable[[], InputPart] | None = None) -> Iterator[Inputs]:
    """The model file's batches, again and again; its example inputs where it has none. Raises ConfigError.

    A file that reads parts of batches is asked for `part`, or for whole batches where none is given.

    They draw from torch's default generator as if nothing else did, from `seed` on: alike on all ranks, whatever each draws
    for itself.
    """
    return drawn_alike(_batches(job, part), seed)


def drawn_alike(source: Iterator[Inputs], seed: int) -> Iterator[Inputs]:
    """Batches, each drawn as if nothing else drew from torch's default generator since the one before, from `seed` on."""
    with RANDOM_STATE, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
    while True:
        with RANDOM_STATE, torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            batch = next(source, None)
            state = torch.get_rng_state()
        if batch is None:
            return
        yield batch


def next_alike(comm: Comm, source: Iterator[Inputs], file: str, function: str) -> Inputs | None:
    """The next batch, or None behind the last. Raises ConfigError, on all ranks, where only some have another. Collective."""
    with together(comm, f"reading the next batch of {function}"):
        batch = next(source, None)
    ended = torch.tensor([batch is None], dtype=torch.int64)
    comm.all_reduce(ended)
    if 0 < int(ended) < comm.size:
        rule = "all ranks have the same batches, or parts of the same"
        problem = f"{function} has ended on {int(ended)} of {comm.size} ranks"
        agree(comm, function, ConfigError(refusal(file, problem, rule)))
    return batch


def _batches(job: CompiledJob, part: Callable[[], InputPart] | None) -> Iterator[Inputs]:
    file = _need_file(job)
    if file.batches is None:
        yield from itertools.repeat(file.example_inputs())
        return
    rule = "batches() yields inputs to train on"
    try:
        if file.takes_part:
            whole = input_part([(job.description, {})], ())
            yield from own_batches(file.batches, part or (lambda: whole), file.path.name)
        while True:
            count = 0
            for batch in file.batches():
                count += 1
                yield batch
            if not count:
                raise ConfigError(refusal(file.path.name, "batches() yields nothing", rule))
    except ModuleNotFoundError as error:
        problem = f"batches() stops with {type(error).__name__}: {error}"
        raise ConfigError(refusal(file.path.name, problem, rule, fix=fix_for(error))) from error


def loss_of(output: object, path: str = "") -> Tensor:
    """The loss in what a model returns: at a path, else called loss, else the only scalar. Raises ConfigError."""
    if isinstance(output, Outputs | Tensor):
        return output if isinstance(output, Tensor) else output.loss
    if path:
        return at_path(output, path)  # type: ignore[return-value]
    items = dict(output) if isinstance(output, Mapping) else vars(output) if hasattr(output, "loss") else {}
    if isinstance(items.get("loss"), Tensor):
        return items["loss"]  # type: ignore[no-any-return]
    leaves = (
        [output] if isinstance(output, Tensor) else list(output if isinstance(output, tuple | list) else items.values())
    )
    scalars = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() == 0]
    if len(scalars) != 1:
        rule = "forward returns the loss: a scalar, alone or in a field called loss"
        raise ConfigError(refusal("the sequential model", f"its output holds {len(scalars)} scalars", rule))
    return scalars[0]


def call(model: Callable[..., Any], batch: Inputs) -> Any:  # noqa: ANN401 (whatever the model returns)
    """The model on a batch of positional or keyword inputs."""
    return model(**batch) if isinstance(batch, dict) else model(*batch)


def arguments(batch: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments that a batch is."""
    return ((), batch) if isinstance(batch, dict) else (batch, {})


def cast(batch: Inputs, dtype: torch.dtype | None) -> Inputs:
    """The batch with floating-point and complex tensors as precise as `dtype`."""

    def to(value: Any) -> Any:  # noqa: ANN401
        return in_precision(value, dtype) if isinstance(value, Tensor) else value

    return {name: to(value) for name, value in batch.items()} if isinstance(batch, dict) else tuple(map(to, batch))


def _values(job: CompiledJob, seed: int) -> Iterator[tuple[str, Any]]:
    file = job.folder / "constants.safetensors"
    return with_constants(_model_values(job, seed), from_file(file) if file.exists() else ())


def _model_values(job: CompiledJob, seed: int) -> Iterator[tuple[str, Any]]:
    if job.file is None:
        yield from from_file(job.folder / PARAMETERS)
    elif isinstance(job.file.model, nn.Module):
        yield from live_values(job.file.model, job.program.grid.comm)
    else:
        needed = {item.name for item in job.description.parameters if item.kind != "constant"}
        yield from function_values(job.file.model, seed, needed)


def _need_file(job: CompiledJob) -> ModelFile:
    if job.file is None:
        raise _fileless(job.folder, "compiled from a live model, without a model file")
    return job.file


def _fileless(folder: Path, problem: str) -> ConfigError:
    rule = "inputs, the sequential model, and what a function makes come from the model file"
    fix = (
        "write `model = Net` (an instance, a class, or a function) and example_inputs into a model.py, and run `autopar "
        "compile model.py`; or train in Python: autopar.parallelize(model, inputs, grid=...)"
    )
    return ConfigError(refusal(str(folder), problem, rule, fix=fix))


def _versions() -> dict[str, str]:
    return {"autopar": __version__, "torch": torch.__version__, "python": platform.python_version()}
