"""Times one job in this process: forward and backward seconds of a call, as within a training step.

Forward, and backward in one pass of autograd's engine, a few runs follow each other, each behind a mark that stops the clock
of the run before, clears the caches, and starts the clock (`autopar.runtime.calibration.stopwatch`). A run of nothing says
what that takes by itself, and is subtracted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from statistics import median
from types import CodeType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autopar import runtime
from autopar.measure.null_comm import Mute
from autopar.measure.timed_call import TimedCall, TimedOperand
from autopar.runtime.calibration.stopwatch import Watch, begin
from autopar.runtime.grid.counter_rng import drawing
from autopar.runtime.grid.grid import Axis

_NAMES: dict[str, Any] = {"torch": torch, "F": F, "p": SimpleNamespace(training=True, share=1.0)} | {
    name: getattr(runtime, name) for name in runtime.__all__
}
_MOST = 4  # runs in one pass
_PASSES = 3
_LONG = 0.02  # seconds of a run of which there are few


def seconds(job: TimedCall) -> tuple[float, float] | None:
    """(forward, backward), or None where the call cannot be run on made-up tensors."""
    code, axes = _prepared(job)
    below = _below(job, code, axes)
    if below is None:
        return None
    watch = Watch()
    _round(sets := [_Set(job, axes, below, code)], watch)
    forward, backward = _round(sets, watch)
    count = max(1, min(_MOST, int(_LONG / max(forward[0] + backward[0], 1e-9))))
    sets += [_Set(job, axes, below, code) for _ in range(count - 1)]
    passes = [_round(sets, watch) for _ in range(_PASSES)]
    return median(chain.from_iterable(one for one, _ in passes)), median(chain.from_iterable(one for _, one in passes))


def runs(job: TimedCall) -> bool:
    """Whether the call can be run on made-up tensors, forward and backward."""
    return _below(job, *_prepared(job)) is not None


def _prepared(job: TimedCall) -> tuple[CodeType, dict[str, Axis]]:
    axes = {name: Axis(name.lower(), Mute(index, size)) for name, size, index in job.axes}
    return compile(job.text, "<call>", "eval"), axes


class _Set:
    """Operands of one run, and the run."""

    def __init__(self, job: TimedCall, axes: dict[str, Axis], below: int, code: CodeType) -> None:
        self._code = code
        operands = [_made(one, below) for one in job.operands]
        self.leaves = [one for one in operands if one.requires_grad]
        self.fresh = [one.detach() for one, of in zip(operands, job.operands, strict=True) if not of.parameter]
        self._env = _NAMES | axes | {f"x{i}": one for i, one in enumerate(operands)}

    def run(self) -> list[Tensor]:
        """The results."""
        out = eval(self._code, self._env)  # our own text, as the emitter writes it
        return [out] if isinstance(out, Tensor) else [one for one in out if isinstance(one, Tensor)]


def _round(sets: Sequence[_Set], watch: Watch) -> tuple[list[float], list[float]]:
    """Seconds of every set's run forward, and backward."""
    nothing = torch.zeros(1, requires_grad=True)
    roots = list(begin(watch, nothing))
    with drawing(0, 0):
        for item in sets:
            watch.start(item.fresh)
            results = item.run()
            watch.stop()
            trained = [one for one in results if one.requires_grad]
            roots += begin(watch, *trained) if trained else ()
    forward = watch.taken()
    leaves = [leaf for item in sets for leaf in item.leaves]
    if len(roots) == 1 or not leaves:
        return forward, [0.0] * len(sets)
    seeds = [torch.ones_like(one) for one in roots]
    torch.autograd.grad(roots, [*leaves, nothing], seeds, allow_unused=True)
    watch.stop()
    *backward, empty = watch.taken()
    assert len(backward) == len(sets), "autograd goes backward through one run after another, the last run first"
    return forward, [max(one - empty, 0.0) for one in backward]


def _made(operand: TimedOperand, below: int) -> Tensor:
    dtype = getattr(torch, operand.dtype)
    if dtype == torch.bool:
        return torch.rand(operand.shape) < 0.9
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.randint(max(below, 1), operand.shape, dtype=dtype)
    made = torch.randn(operand.shape, dtype=dtype)
    if not operand.differentiable:
        made = made.abs() + 0.5 if dtype.is_floating_point else made  # running variances are positive
    if operand.images and len(operand.shape) == 4:
        made = made.contiguous(memory_format=torch.channels_last)
    return made.requires_grad_(operand.differentiable)


def _below(job: TimedCall, code: CodeType, axes: dict[str, Axis]) -> int | None:
    """What integers count: the largest extent of a tensor of numbers below which the call runs; None where it never does."""
    extents = {n for one in job.operands if _is_real(one.dtype) for n in one.shape}
    if all(_is_real(one.dtype) or one.dtype == "bool" for one in job.operands):
        extents = {1}
    for below in [*sorted(extents, reverse=True), 1]:
        if _runs(partial(_try, job, axes, below, code)):
            return below
    return None


def _try(job: TimedCall, axes: dict[str, Axis], below: int, code: CodeType) -> None:
    _round([_Set(job, axes, below, code)], Watch(0))


def _runs(function: Callable[[], object]) -> bool:
    try:
        function()
    except Exception:  # whatever made-up operands provoke: such a call is not measured
        return False
    return True


def _is_real(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat", "complex"))
