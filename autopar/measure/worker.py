"""Times one job in this process: forward and backward seconds of a call, as within a training step.

A step runs a call among many others: its weights and what it saved have left the caches by the time they are wanted, its
input has just been made. So a job runs K times forward, on K sets of tensors, and then K times backward, in one pass of
autograd's engine; K is such that the sets fill the caches. The least of several rounds' medians would flatter: the median
counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from types import CodeType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autopar import runtime
from autopar.measure.job import Job, Operand
from autopar.measure.mute import Mute
from autopar.runtime.draws import drawing
from autopar.runtime.grid import Axis

_NAMES: dict[str, Any] = {"torch": torch, "F": F, "p": SimpleNamespace(training=True)} | {
    name: getattr(runtime, name) for name in runtime.__all__
}
_FILL = 64 << 20  # bytes of operands and results in all sets together: more than the caches of a core hold
_MOST = 24  # sets
_ROUNDS = 5
_ENOUGH = 0.2  # seconds that the rounds of one job may take, beyond the first three


def seconds(job: Job) -> tuple[float, float] | None:
    """(forward, backward), or None where the call cannot be run on made-up tensors."""
    code, axes = _prepared(job)
    below = _below(job, code, axes)
    if below is None:
        return None
    count = _count(job, code, axes, below)
    sets = [_Set(job, axes, below, code) for _ in range(count)]
    times: list[tuple[float, float]] = []
    start = time.perf_counter()
    _round(sets)
    while len(times) < 3 or (len(times) < _ROUNDS and time.perf_counter() - start < _ENOUGH):
        times.append(_round(sets))
    return median(one for one, _ in times) / count, median(one for _, one in times) / count


def runs(job: Job) -> bool:
    """Whether the call can be run on made-up tensors, forward and backward."""
    return _below(job, *_prepared(job)) is not None


def _prepared(job: Job) -> tuple[CodeType, dict[str, Axis]]:
    axes = {name: Axis(name.lower(), Mute(index, size)) for name, size, index in job.axes}
    return compile(job.text, "<call>", "eval"), axes


class _Set:
    """Operands of one run, and the run."""

    def __init__(self, job: Job, axes: dict[str, Axis], below: int, code: CodeType) -> None:
        self._code = code
        self.operands = [_made(one, below) for one in job.operands]
        self.leaves = [one for one in self.operands if one.requires_grad]
        self._env = _NAMES | axes | {f"x{i}": one for i, one in enumerate(self.operands)}

    def run(self) -> list[Tensor]:
        """The results."""
        out = eval(self._code, self._env)  # our own text, as the emitter writes it
        return [out] if isinstance(out, Tensor) else [one for one in out if isinstance(one, Tensor)]


def _round(sets: list[_Set]) -> tuple[float, float]:
    """Seconds of all sets forward, and of all backward."""
    with drawing(0, 0):
        start = time.perf_counter()
        results = [one for item in sets for one in item.run()]
        forward = time.perf_counter() - start
    roots = [one for one in results if one.requires_grad]
    leaves = [leaf for item in sets for leaf in item.leaves]
    if not roots or not leaves:
        return forward, 0.0
    seeds = [torch.ones_like(one) for one in roots]
    start = time.perf_counter()
    torch.autograd.grad(roots, leaves, seeds, allow_unused=True)
    return forward, time.perf_counter() - start


def _count(job: Job, code: CodeType, axes: dict[str, Axis], below: int) -> int:
    """How many sets: enough to fill the caches, fewer where one run is long."""
    one = _Set(job, axes, below, code)
    _round([one])
    taken = sum(_round([one]))
    with drawing(0, 0):
        size = sum(x.nbytes for x in (*one.operands, *one.run()))
    return max(1, min(_MOST, -(-_FILL // max(size, 1)), int(0.08 / max(taken, 1e-6))))


def _made(operand: Operand, below: int) -> Tensor:
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


def _below(job: Job, code: CodeType, axes: dict[str, Axis]) -> int | None:
    """What integers count: the largest extent of a tensor of numbers below which the call runs; None where it never does."""
    extents = {n for one in job.operands if _is_real(one.dtype) for n in one.shape}
    if all(_is_real(one.dtype) or one.dtype == "bool" for one in job.operands):
        extents = {1}
    for below in [*sorted(extents, reverse=True), 1]:
        if _runs(partial(_try, job, axes, below, code)):
            return below
    return None


def _try(job: Job, axes: dict[str, Axis], below: int, code: CodeType) -> None:
    _round([_Set(job, axes, below, code)])


def _runs(function: Callable[[], object]) -> bool:
    try:
        function()
    except Exception:  # whatever made-up operands provoke: such a call is not measured
        return False
    return True


def _is_real(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat", "complex"))
