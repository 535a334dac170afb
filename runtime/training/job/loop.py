"""The steps of a run, with what happens between two of them: evaluation, metrics, checkpoints, and an early end."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from autopar.jobs.reached import ReachedStep
from autopar.runtime.data.input_part import InputPart
from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.profiling import profile_steps
from autopar.runtime.profiling.action_times import ActionTimes
from autopar.runtime.progress import Progress
from autopar.runtime.session import compiled_job
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training.checkpoint_options import Checkpoints
from autopar.runtime.training.evaluation import Evaluation, evaluated
from autopar.runtime.training.job.beside import Beside
from autopar.runtime.training.job.step import StepResult, TrainingStep, UpdateRule
from autopar.runtime.training.job.stopping import Stopping
from autopar.runtime.training.metrics import MetricsFile
from autopar.runtime.training.scheduler import Scheduler

_LATEST = 5  # steps with faults that are told in full


@dataclass(frozen=True, slots=True)
class Job:
    """What a run trains, and how."""

    opened: CompiledJob
    options: argparse.Namespace
    dtype: torch.dtype | None
    parallel: Parallel
    optimizer: torch.optim.Optimizer
    update: UpdateRule
    checkpoints: Checkpoints
    stopping: Stopping

    @property
    def own(self) -> Callable[[], InputPart] | None:
        """What says which part of a batch is this rank's, where the model file reads parts."""
        takes = self.opened.file is not None and self.opened.file.takes_part
        return self.parallel.input_part if takes else None


@dataclass(frozen=True, slots=True)
class RunEnd:
    """What was done: the wall seconds of each step, the last step of so many, why it was the last if not all are done.

    `lines` are worth telling at the end.
    """

    times: list[float]
    step: int
    steps: int
    stopped: str
    lines: list[str]


def train(
    job: Job,
    scheduler: Scheduler,
    progress: Progress,
    *,
    beside: Beside | None = None,
    profiled: profile_steps.Schedule | ActionTimes | None = None,
    metrics: MetricsFile | None = None,
) -> RunEnd:
    """Make the steps. Collective."""
    options, checkpoints, own = job.options, job.checkpoints, job.own
    forward = job.parallel if own is None else job.parallel.forward_parts
    steps = TrainingStep(
        job.parallel, forward, job.optimizer, job.update, job.stopping, options.on_nonfinite, checkpoints.newest
    )
    batches = compiled_job.batches(job.opened, part=own)
    kept = 0 if profiled is None else 2 * profile_steps.PROFILED + 1  # of what is profiled nothing moves
    moving, comm = options.steps - kept, job.parallel.grid.comm
    with together(comm, "reading the batches of the steps before"):
        for _ in range(checkpoints.begun):
            next(batches)
    times: list[float] = []
    faulty: list[int] = []
    step, stop, reached = checkpoints.begun, steps.asked_before(), ReachedStep(comm.rank)
    reached.note(step)
    with progress:
        while step < options.steps and not stop:
            step += 1
            with together(comm, "reading the next batch"):
                batch = compiled_job.cast(next(batches), job.dtype)
            start = time.perf_counter()
            profile = profiled.step(step) if profiled is not None else nullcontext()
            with profile, scheduler.step() if options.balance and step <= moving else nullcontext():
                result = steps.take(step, batch)
            times.append(time.perf_counter() - start)
            reached.note(step)
            faulty += [step] if result.faults else []
            for line in _fault_lines(step, result, len(faulty)):
                progress.tell(line)
            if beside is not None and step <= options.compare:
                progress.tell(_compared(step, result, beside.step(batch if own is None else None, result.updated)))
            evaluation, stop = _evaluation(job, step, result.stop, progress)
            if metrics is not None:
                metrics.step(step, result.loss, times[-1], *_values(evaluation))
            progress.done(step, f"loss {result.loss:.6g}  {times[-1] * 1e3:.1f} ms")
            for line in checkpoints.after(step, options.steps, ending=bool(stop)):
                progress.tell(line)
            job.stopping.took(time.perf_counter() - start - checkpoints.seconds, checkpoints.seconds)
    lines = [_faults(faulty, len(times), options.on_nonfinite)] if faulty else []
    return RunEnd(times, step, options.steps, stop if step < options.steps else "", lines)


def _evaluation(job: Job, step: int, stop: str, progress: Progress) -> tuple[Evaluation | None, str]:
    """The evaluation after a step, if one is due, and why the run ends now, as that may be asked for meanwhile. Collective."""
    if not job.options.evaluate_every or step % job.options.evaluate_every or job.opened.file is None or stop:
        return None, stop
    evaluation = evaluated(job.parallel, job.opened.file, job.dtype, lambda: bool(job.stopping.asked))
    if evaluation is None:
        return None, "a signal during an evaluation, which was left unfinished"
    progress.tell(evaluation.line(step))
    if job.update.schedule is not None:
        job.update.schedule.after_evaluation(evaluation.loss)
    return evaluation, ""


def _values(evaluation: Evaluation | None) -> tuple[float | None, Mapping[str, float]]:
    return (None, {}) if evaluation is None else (evaluation.loss, evaluation.metrics)


def _compared(step: int, result: StepResult, other: float) -> str:
    gap = f"difference {abs(result.loss - other):.2g}"
    return f"compared   step {step}: loss {result.loss:.9g}, sequential {other:.9g}, {gap}"


def _fault_lines(step: int, result: StepResult, count: int) -> Iterator[str]:
    """What is told of a step that is not finite and does not stop the run."""
    if result.faults and count <= _LATEST:
        what = "its update was made" if result.updated else "it was left out"
        yield f"nonfinite  step {step}: {what}"
        yield from (f"           {line}" for line in result.faults)


def _faults(faulty: list[int], steps: int, mode: str) -> str:
    what = "left out" if mode == "skip" else "made in spite of it"
    shown = ", ".join(map(str, faulty[:_LATEST])) + (", ..." if len(faulty) > _LATEST else "")
    return f"nonfinite  {len(faulty)} of {steps} steps were {what}: {shown}"
