"""One step of a run: forward, backward, what the ranks decide together, and the update."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autopar.model_file import ModelFile
from autopar.runtime.session import compiled_job
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training.job import nonfinite
from autopar.runtime.training.job.schedule import RateSchedule
from autopar.runtime.training.job.stopping import Stopping


@dataclass(frozen=True, slots=True)
class StepResult:
    """The loss of a step; why the run ends after it, if it does; and what was not finite, a line each."""

    loss: float
    stop: str
    faults: tuple[str, ...] = ()
    updated: bool = True


@dataclass(frozen=True, slots=True)
class UpdateRule:
    """What a model file says of an update: the largest norm of gradients, and the learning rate's schedule."""

    clip: float | None = None
    schedule: RateSchedule | None = None

    @staticmethod
    def of(file: ModelFile | None, optimizer: torch.optim.Optimizer) -> UpdateRule:
        """The update of a model file, over this optimizer. Raises ConfigError."""
        return UpdateRule() if file is None else UpdateRule(file.clip_grad_norm, RateSchedule.of(file, optimizer))


class TrainingStep:
    """A step of a `Parallel`. `newest` says where the last checkpoint is, for what is told of a step that cannot be made."""

    def __init__(
        self,
        parallel: Parallel,
        forward: Callable[..., Any],
        optimizer: torch.optim.Optimizer,
        update: UpdateRule,
        stopping: Stopping,
        on_nonfinite: str,
        newest: Callable[[], str],
    ) -> None:
        self._parallel, self._forward, self._optimizer = parallel, forward, optimizer
        self._update, self._stopping, self._mode, self._newest = update, stopping, on_nonfinite, newest

    def take(self, step: int, batch: compiled_job.Inputs) -> StepResult:
        """Make a step. Collective. Raises ConfigError, on all ranks and before the update, where the mode is to stop."""
        before = self._written_in_forward()
        loss_of_all = compiled_job.loss_of(compiled_job.call(self._forward, batch))
        self._optimizer.zero_grad()
        loss_of_all.backward()  # type: ignore[no-untyped-call]
        loss = loss_of_all.item()
        asked = self._stopping.asked
        parameters = dict(self._parallel.named_parameters())
        grads = nonfinite.gradients(parameters.values())
        said = [bool(asked), not math.isfinite(abs(loss)) or not nonfinite.all_finite(grads)]
        flags = torch.tensor(said, dtype=torch.int64)
        self._parallel.grid.comm.all_reduce(flags)
        stopping, bad = flags.tolist()
        stop = self._reason(asked) if stopping else ""
        if not bad:
            self._learn()
            return StepResult(loss, stop)
        lines = nonfinite.found(self._parallel.grid.comm, loss, parameters)
        if self._mode == nonfinite.STOP:
            raise nonfinite.refused(step, lines, self._newest())
        if self._mode == nonfinite.CONTINUE:
            self._learn()
            return StepResult(loss, stop, tuple(lines))
        self._optimizer.zero_grad()
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
        return StepResult(loss, stop, tuple(lines), updated=False)

    def asked_before(self) -> str:
        """Why not even a first step is to be made: a signal came before. Collective."""
        flag = torch.tensor([bool(self._stopping.signalled)], dtype=torch.int64)
        self._parallel.grid.comm.all_reduce(flag)
        return self._reason(self._stopping.signalled) if int(flag) else ""

    def _learn(self) -> None:
        if self._update.clip is not None:
            self._parallel.clip_grad_norm_(self._update.clip)
        self._optimizer.step()
        if self._update.schedule is not None:
            self._update.schedule.after_update()

    def _written_in_forward(self) -> list[tuple[Tensor, Tensor]]:
        """Buffers, as running statistics are, with their values before a step that may be left out."""
        if self._mode != nonfinite.SKIP:
            return []
        return [(one, one.clone()) for one in self._parallel.buffers() if one.is_floating_point()]

    def _reason(self, asked: str) -> str:
        """Why the ranks stop: the first of them that was asked says it. Collective."""
        every = [str(one) for one in self._parallel.grid.comm.gather_objects(asked)]
        rank, said = next((rank, said) for rank, said in enumerate(every) if said)
        return said if all(one == said for one in every) else f"{said} on rank {rank}"
