"""A scheduler that needs no change of the training loop: it learns from torch's hooks where steps begin and end.

A step begins with the first call of the model in training after the last step, and ends when an optimizer of its parameters has
made its update, the last one if there are several. Boundaries move when the next step begins: whatever stands between the
two, zeroing gradients, schedules, reading a batch, sees the parameters as they were.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training.balance_settings import BalanceSettings
from autopar.runtime.training.scheduler import Scheduler


class AttachedScheduler:
    """The scheduler of a `Parallel`, until `detach`. `lines` say what was moved, `reason` why no more."""

    def __init__(
        self,
        parallel: Parallel,
        settings: BalanceSettings,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._parallel = parallel
        self._optimizers: list[weakref.ref[torch.optim.Optimizer]] = []  # in the order of their first updates
        self._scheduler = Scheduler(parallel, (), settings, clock, tell)
        self._begun: tuple[float, ...] | None = None
        self._ended: tuple[float, ...] | None = None
        self._called = parallel.register_forward_pre_hook(self._begins)
        updates = register_optimizer_step_post_hook(weakly(self._updated))  # torch keeps it for as long as it lives
        self._forget = weakref.finalize(self, updates.remove)

    @property
    def lines(self) -> list[str]:
        """The moves in words."""
        return self._scheduler.lines

    @property
    def reason(self) -> str:
        """What was decided last, and why."""
        return self._scheduler.reason

    def detach(self) -> None:
        """Look at no step any more."""
        self._called.remove()
        self._forget()

    def _known(self) -> list[torch.optim.Optimizer]:
        return [optimizer for each in self._optimizers if (optimizer := each()) is not None]

    def _begins(self, module: nn.Module, inputs: object) -> None:
        """Before the model is called."""
        if not (module.training and torch.is_grad_enabled()):
            return
        if self._begun is not None and self._ended is not None:
            self._scheduler.optimizers = self._known()
            self._scheduler.took(self._begun, self._ended)
            self._scheduler.optimizers = ()
            self._begun = self._ended = None
        if self._begun is None:
            self._begun = self._scheduler.now()

    def _updated(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:  # noqa: ANN401 (torch's arguments)
        """After any optimizer of this process has made its update."""
        known = any(one is optimizer for one in self._known())
        if not known and updates(optimizer, self._parallel.parameters()):
            self._optimizers.append(weakref.ref(optimizer))
            known = True
        if known and self._begun is not None:
            self._ended = self._scheduler.now()


def weakly(method: Callable[..., None]) -> Callable[..., None]:
    """A function that calls a method for as long as its object lives."""
    alive = weakref.WeakMethod(method)

    def hook(*arguments: Any) -> None:  # noqa: ANN401 (whatever the method takes)
        found = alive()
        if found is not None:
            found(*arguments)

    return hook


def updates(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> bool:
    """Whether an optimizer has any of these parameters."""
    own = {id(parameter) for parameter in parameters}
    return any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"])
