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
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from autopar.errors import ConfigError, nearest, refusal
from autopar.ir.profile import LEAST
from autopar.jobs import signals
from autopar.jobs.signals import StopRequests
from autopar.runtime.diagnostics import call_site, failure
from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.parameters import sources
from autopar.runtime.process import load_optimizers, share_cores
from autopar.runtime.profiling import profile_steps
from autopar.runtime.program.program import Program
from autopar.runtime.progress import Progress, show
from autopar.runtime.session import compiled_job
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.training import balance_lines, checkpoint_options, weight_options
from autopar.runtime.training.balance_settings import AUTO, OFF, SYNTAX, parse_balance
from autopar.runtime.training.checkpoint_options import Checkpoints
from autopar.runtime.training.job import nonfinite, stopping
from autopar.runtime.training.job.beside import Beside, make_optimizer, update_of
from autopar.runtime.training.job.loop import Job, RunEnd, train
from autopar.runtime.training.job.stopping import Stopping
from autopar.runtime.training.metrics import MetricsFile
from autopar.runtime.training.scheduler import Scheduler

CALL_SITE = call_site.PROGRAM
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def main(program: Program, file: str, arguments: Sequence[str] | None = None) -> None:
    """Train the program that stands in `file`. A failure ends the whole job with status 1, its cause printed.

    A job that is asked to stop ends with status 85, after a step.
    """
    comm = program.grid.comm
    stopped = False
    with failure.reported(comm), signals.listening(comm.rank) as requests:
        with together(comm, "reading the command line"):
            options = parse(arguments, comm.rank)
        signals.announce()
        if options is not None:
            load_optimizers()
            share_cores(comm)
            stopped = run(compiled_job.open_job(program, Path(file), options.seed), options, requests)
    if stopped and not signals.leave_stopped():
        sys.exit(signals.STOPPED)


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
    stopping.add(parser)
    parser.add_argument("--on-nonfinite", choices=nonfinite.CHOICES, default=nonfinite.STOP, help="(stop)")
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
    problems += stopping.problems(options)
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


def run(opened: CompiledJob, options: argparse.Namespace, requests: StopRequests) -> bool:
    """Train an opened job as the command line says; whether it was asked to stop before its last step. Collective."""
    comm = opened.program.grid.comm
    dtype = DTYPES.get(options.dtype)
    for note in opened.notes:
        show(comm.rank, f"note: {note}")
    with together(comm, "looking at what is read by parts"):
        compiled_job.check_parts(opened, "batches", *(["evaluate"] if options.evaluate_every else []))
    parallel = compiled_job.parallel(opened, options.seed, dtype)
    loaded = weight_options.load(parallel, options)
    for line in loaded:
        show(comm.rank, line)
    with together(comm, "making the optimizer"):
        optimizer = make_optimizer(opened, list(parallel.parameters()))
        update = update_of(opened, optimizer, options)
    checkpoints = Checkpoints(parallel, optimizer, options, update.schedule)
    for line in checkpoints.lines:
        show(comm.rank, line)
    metrics = _metrics(opened, options, checkpoints.begun)
    start = parallel.full_state_dict(rank0_only=True) if loaded and options.compare else {}
    beside = Beside(opened, options, dtype, start) if options.compare and comm.rank == 0 else None
    progress = Progress(options.steps, comm.rank == 0)
    scheduler = Scheduler(parallel, optimizer, options.balance, tell=lambda line: progress.tell(f"moved      {line}"))
    profiled = profile_steps.scheduled(opened, parallel, optimizer, options.steps) if options.profile else None
    ending = Stopping(requests, stopping.seconds_of(options), checkpoints.bytes_here)
    job = Job(opened, options, dtype, parallel, optimizer, update, checkpoints, ending)
    trained = train(job, scheduler, progress, beside=beside, profiled=profiled, metrics=metrics)
    if options.save is not None:
        state = parallel.full_state_dict(rank0_only=True)
        with together(comm, f"writing {options.save}"):
            if comm.rank == 0:
                sources.save(state, options.save, {"seed": str(options.seed), "steps": str(trained.step)})
    if profiled is not None and not trained.stopped:
        for line in profiled.write(scheduler.lines):
            show(comm.rank, line)
    for line in _summary(opened, options.save, scheduler if options.balance else None, checkpoints, trained):
        show(comm.rank, line)
    comm.barrier()  # ranks that leave together free at exit what they share
    return bool(trained.stopped)


def _metrics(opened: CompiledJob, options: argparse.Namespace, begun: int) -> MetricsFile | None:
    """The file of metrics on rank 0, if one is asked for. Raises ConfigError where the model file has nothing to evaluate on."""
    comm = opened.program.grid.comm
    with together(comm, "opening the file of metrics"):
        if options.evaluate_every and (opened.file is None or opened.file.evaluate is None):
            rule = "evaluate() in the model file yields inputs, as batches() does, or evaluate(part) parts of them"
            raise ConfigError(refusal("--evaluate-every", "there is nothing to evaluate on", rule))
        return MetricsFile(options.metrics, begun) if options.metrics is not None and comm.rank == 0 else None


def _summary(
    opened: CompiledJob,
    saved: Path | None,
    scheduler: Scheduler | None,
    checkpoints: Checkpoints,
    trained: RunEnd,
) -> list[str]:
    lines = []
    if trained.times:
        usual = statistics.median(trained.times[1:] or trained.times)
        lines.append(f"trained    {len(trained.times)} steps, {usual * 1e3:.1f} ms per step")
    lines += trained.lines
    if scheduler is not None:
        lines.append(f"balance    {balance_lines.summary(scheduler.lines, scheduler.reason)}")
    if saved is not None:
        lines.append(f"saved      {saved}")
    lines += checkpoints.summary
    lines.append(f"plan       {os.path.relpath(opened.folder / 'plan.json')}")
    lines.append(f"program    {os.path.relpath(opened.folder / 'program.py')}")
    if trained.stopped:
        how = "--resume goes on from there" if checkpoints.kept else "nothing was saved: there is no --checkpoint"
        lines.append(f"stopped    after step {trained.step} of {trained.steps}, by {trained.stopped}; {how}")
    return lines
