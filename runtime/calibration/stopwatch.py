"""A stop-watch for calls as they run within a training step, where they find the caches as other calls have left them.

By the time a call begins, its weights, what it saved for backward and the code that it runs have gone from the caches; its
operands have just been made. A small operation takes several times as long as in a loop of its own. So before a lap begins,
memory is copied that no cache holds, and then the operands are written.

In backward a lap begins and ends at marks, which are the identity:

    y = begin(watch, function(*end(watch, *operands)))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

CLEARED = 16 << 20  # bytes that are copied to clear the caches: more than those of a core hold


class Watch:
    """A stop-watch that copies `cleared` bytes before a lap, and then calls `ready`, such as a barrier.

    `laps` are the seconds so far.
    """

    def __init__(self, cleared: int = CLEARED, ready: Callable[[], object] = lambda: None) -> None:
        self._memory = torch.zeros(2, cleared // 4)
        self._ready = ready
        self._began = 0.0
        self.laps: list[float] = []

    def start(self, tensors: Sequence[Tensor] = ()) -> None:
        """Begin a lap, in which `tensors` have just been computed."""
        self._memory[0].copy_(self._memory[1])
        for tensor in tensors:
            tensor.copy_(tensor.clone())
        self._ready()
        self._began = time.perf_counter()

    def stop(self) -> None:
        """End the lap, if one was begun."""
        now = time.perf_counter()
        if self._began:
            self.laps.append(now - self._began)
        self._began = 0.0

    def taken(self) -> list[float]:
        """The laps, which are then forgotten."""
        laps, self.laps = self.laps, []
        return laps


def begin(watch: Watch, *results: Tensor) -> tuple[Tensor, ...]:
    """The results; when backward comes to them, it ends a lap that was begun, and begins one in which gradients have been made."""

    def passed(gradients: Sequence[Tensor]) -> None:
        watch.stop()
        watch.start(gradients)

    return _marked(passed, *results)


def end(watch: Watch, *operands: Tensor) -> tuple[Tensor, ...]:
    """The operands; when all of their gradients are there, the lap ends."""
    return _marked(lambda _: watch.stop(), *operands)


def _marked(passed: Callable[[Sequence[Tensor]], None], *tensors: Tensor) -> tuple[Tensor, ...]:
    marked: tuple[Tensor, ...] = _Mark.apply(passed, *tensors)  # type: ignore[no-untyped-call]
    return marked


class _Mark(torch.autograd.Function):
    """The identity, whose backward is told to `passed`."""

    @staticmethod
    def forward(ctx: Any, passed: Callable[[Sequence[Tensor]], None], *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401 (torch's context)
        ctx.passed = passed
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        ctx.passed(gradients)
        return None, *gradients
