"""A model file's own ``scheduler(optimizer)``: a learning rate that changes with the updates, and is saved with them.

Any schedule of torch's is stepped after every update; one that looks at a loss, `ReduceLROnPlateau`, after every evaluation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from autopar.errors import ConfigError, refusal
from autopar.model_file import ModelFile


class RateSchedule:
    """A schedule of torch's, `inner`, as a run steps it."""

    def __init__(self, inner: LRScheduler) -> None:
        self.inner = inner

    @staticmethod
    def of(file: ModelFile, optimizer: torch.optim.Optimizer) -> RateSchedule | None:
        """The file's schedule over this optimizer, None where it has none. Raises ConfigError where it is no schedule."""
        if file.scheduler is None:
            return None
        made: Any = file.scheduler(optimizer)
        if not isinstance(made, LRScheduler):
            rule = "scheduler(optimizer) returns a schedule of torch.optim.lr_scheduler over that optimizer"
            raise ConfigError(refusal(file.path.name, f"scheduler returned {type(made).__name__}", rule))
        if made.optimizer is not optimizer:
            rule = "scheduler(optimizer) returns a schedule over the optimizer that it is given"
            raise ConfigError(refusal(file.path.name, "scheduler returned one over another optimizer", rule))
        return RateSchedule(made)

    @property
    def looks_at_loss(self) -> bool:
        """Whether it is stepped by an evaluation's loss."""
        return isinstance(self.inner, ReduceLROnPlateau)

    def after_update(self) -> None:
        """An update was made."""
        if not self.looks_at_loss:
            self.inner.step()

    def after_evaluation(self, loss: float) -> None:
        """An evaluation came to this loss, the same on all ranks."""
        if isinstance(self.inner, ReduceLROnPlateau):
            self.inner.step(loss)

    @property
    def rate(self) -> float:
        """The learning rate of the first group, as it stands."""
        return float(self.inner.optimizer.param_groups[0]["lr"])
