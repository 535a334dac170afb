"""What a model file says of learning, and the sequential model that learns so on rank 0, for ``--compare``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autopar.errors import ConfigError, refusal
from autopar.runtime.functional.model_random import ProgramRandom
from autopar.runtime.grid.counter_rng import drawing
from autopar.runtime.parameters.precision import module_in_precision
from autopar.runtime.session import compiled_job
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.training.job.step import UpdateRule

LEARNING_RATE = 1e-3


def make_optimizer(opened: CompiledJob, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The model file's own optimizer; where it has none, the one that the plan was made for."""
    if opened.file is not None and opened.file.optimizer is not None:
        return opened.file.optimizer(parameters)
    if opened.description.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    momentum = 0.9 if opened.description.optimizer == "momentum" else 0.0
    return torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=momentum)


def update_of(opened: CompiledJob, optimizer: torch.optim.Optimizer, options: argparse.Namespace) -> UpdateRule:
    """What the model file says of an update. Raises ConfigError, also for a schedule that a run like this never steps."""
    update = UpdateRule.of(opened.file, optimizer)
    if update.schedule is not None and update.schedule.looks_at_loss and not options.evaluate_every:
        rule = "a schedule that looks at a loss is stepped after every evaluation"
        fix = "--evaluate-every N, with evaluate() in the model file"
        raise ConfigError(refusal("scheduler of the model file", "this run evaluates nothing", rule, fix=fix))
    return update


class Beside:
    """The sequential model on rank 0, from the same initial values, over the same batches."""

    def __init__(
        self, opened: CompiledJob, options: argparse.Namespace, dtype: torch.dtype | None, start: Mapping[str, Tensor]
    ) -> None:
        self._dtype, self._path = dtype, opened.description.loss
        self._seed, self._steps = options.seed, 0
        self._model = module_in_precision(compiled_job.sequential(opened, options.seed), dtype)
        self._model.load_state_dict(start, strict=False)  # nothing, where no weights were loaded
        self._optimizer = make_optimizer(opened, list(self._model.parameters()))
        self._update = update_of(opened, self._optimizer, options)
        self._whole = compiled_job.batches(opened)

    def step(self, batch: compiled_job.Inputs | None, updated: bool) -> float:
        """One sequential step, with the random numbers of the program's; returns its loss.

        With no batch it reads it itself. `updated` says whether the step was made or left out.
        """
        batch = next(self._whole) if batch is None else batch
        self._steps += 1
        with drawing(self._seed, self._steps), ProgramRandom():
            loss = compiled_job.loss_of(
                compiled_job.call(self._model, compiled_job.cast(batch, self._dtype)), self._path
            )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if updated:
            if self._update.clip is not None:
                nn.utils.clip_grad_norm_(self._model.parameters(), self._update.clip)
            self._optimizer.step()
            if self._update.schedule is not None:
                self._update.schedule.after_update()
        return loss.item()
