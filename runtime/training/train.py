"""What ``mpiexec -n N python -m mpi4py build/program.py`` does: trains the model over the model file's batches.

Every rank reads plan and program, and makes sure that all have read the same; makes its part of the parameters; takes
its part of every batch; and follows the model file's own optimizer. Rank 0 shows progress. With ``--compare N`` it
also runs the sequential model beside the first N steps.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from autopar.errors import ConfigError, nearest, refusal
from autopar.ir.profile import LEAST
from autopar.runtime.diagnostics import call_site, failure
from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.functional.model_random import ProgramRandom
from autopar.runtime.grid.counter_rng import drawing
from autopar.runtime.parameters import sources
from autopar.runtime.parameters.precision import module_in_precision
from autopar.runtime.process import load_optimizers, share_cores
from autopar.runtime.profiling import profile_steps
from autopar.runtime.profiling.action_times import ActionTimes
from autopar.runtime.program.program import Program
from autopar.runtime.progress import Progress, show
from autopar.runtime.session import compiled_job
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training import balance_lines, checkpoint_options, weight_options
from autopar.runtime.training.balance_settings import AUTO, OFF, SYNTAX, parse_balance
from autopar.runtime.training.checkpoint_options import Checkpoints
from autopar.runtime.training.evaluation import evaluated
from autopar.runtime.training.metrics import MetricsFile
from autopar.runtime.training.scheduler import Scheduler

CALL_SITE = call_site.PROGRAM
DTYPES = {"float32": torch.float32, "float64": torch.float64}
LEARNING_RATE = 1e-3


def main(program: Program, file: str, arguments: Sequence[str] | None = None) -> None:
    """Train the program that stands in `file`. A failure ends the whole job with status 1, its cause printed."""
    comm = program.grid.comm
    with failure.reported(comm):
        with together(comm, "reading the command line"):
            options = parse(arguments, comm.rank)
        if options is not None:
            load_optimizers()
            share_cores(comm)
            run(compiled_job.open_job(program, Path(file), options.seed), options)


def parse(arguments: Sequence[str] | None, rank: int) -> argparse.Namespace | None:
    """The command line of a program; None where it asked for help, which rank 0 prints. Raises ConfigError."""
    parser = _Parser(prog="program.py", description="Train a compiled model on MPI ranks.", allow_abbrev=False)
    parser.add_argument("--steps", type=int, default=100, help="training steps (100)")
    parser.add_argument(
        "--compare", type=int, default=0, metavar="N", help="run the sequential model beside the first N steps"
    )
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="write the parameters as safetensors, under their own names"
    )
    weight_options.add(parser)
    parser.add_argument(
        "--evaluate-every", type=int, default=0, metavar="N", help="evaluate on evaluate()'s batches every N steps"
    )
    parser.add_argument("--metrics", type=Path, metavar="FILE", help="write steps and losses as CSV")
    checkpoint_options.add(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the initial parameters (0)")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="run in another precision than compiled")
    parser.add_argument("--profile", action="store_true", help="profile the last steps into profile.json")
    balance = f"when boundaries move away from slow ranks: {SYNTAX} (auto; with --profile off)"
    parser.add_argument("--balance", metavar="WHEN", help=balance)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(words):
        if rank == 0:
            parser.print_help()
        return None
    options, rest = parser.parse_known_args(words)
    problems = [f"unknown option {word}{nearest(word.split('=')[0], parser.options())}" for word in rest]
    problems += weight_options.problems(options)
    problems += checkpoint_options.problems(options)
    problems += [
        f"--{name} {value} is negative"
        for name in ("steps", "compare", "evaluate_every")
        if (value := getattr(options, name)) < 0
    ]
    if options.profile and options.steps < LEAST:
        problems.append(f"--profile needs {LEAST} steps or more, not {options.steps}")
    options.balance = parse_balance(options.balance or (OFF if options.profile else AUTO))
    if problems:
        raise ConfigError(refusal("command line", "not understood", "see --help", problems))
    return options


class _Parser(argparse.ArgumentParser):
    """A parser that raises, since every rank parses and one of them has to print."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(refusal("command line", message, "see --help"))

    def options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]


def run(opened: CompiledJob, options: argparse.Namespace) -> None:
    """Train an opened job as the command line says. Collective."""
    comm = opened.program.grid.comm
    dtype = DTYPES.get(options.dtype)
    for note in opened.notes:
        show(comm.rank, f"note: {note}")
    parallel = compiled_job.parallel(opened, options.seed, dtype)
    loaded = weight_options.load(parallel, options)
    for line in loaded:
        show(comm.rank, line)
    with together(comm, "making the optimizer"):
        optimizer = make_optimizer(opened, list(parallel.parameters()))
    checkpoints = Checkpoints(parallel, optimizer, options)
    for line in checkpoints.lines:
        show(comm.rank, line)
    metrics = _metrics(opened, options, checkpoints.begun)
    start = parallel.full_state_dict(rank0_only=True) if loaded and options.compare else {}
    beside = _Beside(opened, options, dtype, start) if options.compare and comm.rank == 0 else None
    progress = Progress(options.steps, comm.rank == 0)
    scheduler = Scheduler(parallel, optimizer, options.balance, tell=lambda line: progress.tell(f"moved      {line}"))
    profiled = profile_steps.scheduled(opened, parallel, optimizer, options.steps) if options.profile else None
    times = train(
        opened, options, dtype, parallel, optimizer, scheduler, checkpoints, beside, progress, profiled, metrics
    )
    if options.save is not None:
        state = parallel.full_state_dict(rank0_only=True)
        with together(comm, f"writing {options.save}"):
            if comm.rank == 0:
                sources.save(
                    state, options.save, {"seed": str(options.seed), "steps": str(checkpoints.begun + len(times))}
                )
    if profiled is not None:
        for line in profiled.write(scheduler.lines):
            show(comm.rank, line)
    for line in _summary(opened, options.save, scheduler if options.balance else None, checkpoints, times):
        show(comm.rank, line)
    comm.barrier()  # ranks that leave together free at exit what they share


def train(
    opened: CompiledJob,
    options: argparse.Namespace,
    dtype: torch.dtype | None,
    parallel: Parallel,
    optimizer: torch.optim.Optimizer,
    scheduler: Scheduler,
    checkpoints: Checkpoints,
    beside: _Beside | None,
    progress: Progress,
    profiled: profile_steps.Schedule | ActionTimes | None = None,
    metrics: MetricsFile | None = None,
) -> list[float]:
    """The steps; returns the wall seconds of each."""
    own = parallel.input_part if opened.file is not None and opened.file.takes_part else None
    forward = parallel if own is None else parallel.forward_parts
    batches = compiled_job.batches(opened, part=own)
    times = []
    kept = (
        0 if profiled is None else 2 * profile_steps.PROFILED + 1
    )  # of the last steps, what is profiled stays as it is
    moving = options.steps - kept
    comm = parallel.grid.comm
    with together(comm, "reading the batches of the steps before"):
        for _ in range(checkpoints.begun):
            next(batches)
    with progress:
        for step in range(checkpoints.begun + 1, options.steps + 1):
            with together(comm, "reading the next batch"):
                batch = compiled_job.cast(next(batches), dtype)
            start = time.perf_counter()
            profile = profiled.step(step) if profiled is not None else nullcontext()
            with profile, scheduler.step() if options.balance and step <= moving else nullcontext():
                loss = _step(forward, batch, optimizer)
            times.append(time.perf_counter() - start)
            if beside is not None and step <= options.compare:
                other = beside.step(batch if own is None else None)
                gap = f"difference {abs(loss - other):.2g}"
                progress.tell(f"compared   step {step}: loss {loss:.9g}, sequential {other:.9g}, {gap}")
            evaluation = None
            if options.evaluate_every and step % options.evaluate_every == 0 and opened.file is not None:
                evaluation = evaluated(parallel, opened.file, dtype)
                progress.tell(evaluation.line(step))
            if metrics is not None:
                metrics.step(step, loss, times[-1], None if evaluation is None else evaluation.loss)
            progress.done(step, f"loss {loss:.6g}  {times[-1] * 1e3:.1f} ms")
            checkpoints.after(step, options.steps)
    return times


def _metrics(opened: CompiledJob, options: argparse.Namespace, begun: int) -> MetricsFile | None:
    """The file of metrics on rank 0, if one is asked for. Raises ConfigError where the model file has nothing to evaluate on."""
    comm = opened.program.grid.comm
    with together(comm, "opening the file of metrics"):
        if options.evaluate_every and (opened.file is None or opened.file.evaluate is None):
            rule = "evaluate() in the model file yields inputs, as batches() does, or evaluate(part) parts of them"
            raise ConfigError(refusal("--evaluate-every", "there is nothing to evaluate on", rule))
        return MetricsFile(options.metrics, begun) if options.metrics is not None and comm.rank == 0 else None


def make_optimizer(opened: CompiledJob, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The model file's own optimizer; where it has none, the one that the plan was made for."""
    if opened.file is not None and opened.file.optimizer is not None:
        return opened.file.optimizer(parameters)
    if opened.description.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    momentum = 0.9 if opened.description.optimizer == "momentum" else 0.0
    return torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=momentum)


class _Beside:
    """The sequential model on rank 0, from the same initial values, over the same batches."""

    def __init__(
        self, opened: CompiledJob, options: argparse.Namespace, dtype: torch.dtype | None, start: Mapping[str, Tensor]
    ) -> None:
        self._dtype, self._path = dtype, opened.description.loss
        self._seed, self._steps = options.seed, 0
        self._model = module_in_precision(compiled_job.sequential(opened, options.seed), dtype)
        self._model.load_state_dict(start, strict=False)  # nothing, where no weights were loaded
        self._optimizer = make_optimizer(opened, list(self._model.parameters()))
        self._whole = compiled_job.batches(opened)

    def step(self, batch: compiled_job.Inputs | None) -> float:
        """One sequential step, with the random numbers of the program's; returns its loss. None: it reads the batch itself."""
        batch = next(self._whole) if batch is None else batch
        self._steps += 1
        with drawing(self._seed, self._steps), ProgramRandom():
            loss = compiled_job.loss_of(
                compiled_job.call(self._model, compiled_job.cast(batch, self._dtype)), self._path
            )
        _update(loss, self._optimizer)
        return loss.item()


def _step(forward: Callable[..., Any], batch: compiled_job.Inputs, optimizer: torch.optim.Optimizer) -> float:
    loss = compiled_job.loss_of(compiled_job.call(forward, batch))
    _update(loss, optimizer)
    return loss.item()


def _update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _summary(
    opened: CompiledJob,
    saved: Path | None,
    scheduler: Scheduler | None,
    checkpoints: Checkpoints,
    times: Sequence[float],
) -> list[str]:
    lines = []
    if times:
        usual = statistics.median(times[1:] or times)
        lines.append(f"trained    {len(times)} steps, {usual * 1e3:.1f} ms per step")
    if scheduler is not None:
        lines.append(f"balance    {balance_lines.summary(scheduler.lines, scheduler.reason)}")
    if saved is not None:
        lines.append(f"saved      {saved}")
    lines += checkpoints.summary
    lines.append(f"plan       {os.path.relpath(opened.folder / 'plan.json')}")
    lines.append(f"program    {os.path.relpath(opened.folder / 'program.py')}")
    return lines
