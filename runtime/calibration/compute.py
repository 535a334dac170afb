"""How fast ranks compute while all of them do: operators by class and dtype, memory, an operator's floor, optimizers, overlap.

Operations are counted as the cost model counts them: two per multiplication and addition, one per element of a pointwise
result, ten per element of a normalisation; backward twice as many for products and normalisations, 2.5 times for attention.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from autopar.ir.calibration_data import TimedComputation
from autopar.runtime.calibration.timer import Pace, Timer
from autopar.runtime.transport.base import Comm


@dataclass(frozen=True, slots=True)
class _Operator:
    work: str
    name: str
    shapes: tuple[tuple[int, ...], ...]
    function: Callable[..., Tensor]
    operations: float
    backward: float  # operations per one forward; 0 where the gradient is only passed on
    dtype: torch.dtype = torch.float32


def _linear(dtype: torch.dtype, rows: int, wide: int, out: int) -> _Operator:
    shapes, count = ((rows, wide), (out, wide)), 2.0 * rows * wide * out
    return _Operator("matmul", f"{rows}x{wide}x{out}", shapes, F.linear, count, 2.0, dtype)


def _conv(*shape: int, out: int, function: Callable[..., Tensor]) -> _Operator:
    weight = (out, shape[1], *[3] * (len(shape) - 2))
    count = 2.0 * shape[0] * out * math.prod(shape[2:]) * math.prod(weight[1:])
    return _Operator("conv", f"{len(shape) - 2}d {'x'.join(map(str, shape))}", (shape, weight),
                     lambda x, w: function(x, w, padding=1), count, 2.0)  # fmt: skip


def _attention(tokens: int, causal: bool) -> _Operator:
    batch, heads, wide = 4, 6, 64
    count = 2.0 * batch * heads * tokens * tokens * 2 * wide * (0.5 if causal else 1.0)
    return _Operator(
        "attention", f"{tokens}{' causal' * causal}", ((batch, heads, tokens, wide),) * 3,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal), count, 2.5,
    )  # fmt: skip


def _elements(
    work: str, name: str, rows: int, function: Callable[..., Tensor], per: float, backward: float, operands: int = 1
) -> _Operator:
    shape = (rows, 384)
    return _Operator(work, name, (shape,) * operands, function, per * math.prod(shape), backward)


def _operators(small: bool) -> list[_Operator]:
    """Two or three of every class, so large that they run at their rate; small ones for a trial."""
    rows, images, tokens = (64, 1, 32) if small else (2048, 8, 256)
    wide = 64 if small else 1024
    return [
        _linear(torch.float32, rows // 4, wide, wide),
        _linear(torch.float32, rows // 2, 3 * wide // 8, 3 * wide // 2),
        _linear(torch.float32, rows // 8, 2 * wide, 2 * wide),
        _conv(images, 64, 32, 32, out=64, function=F.conv2d),
        _conv(images, 128, 16, 16, out=128, function=F.conv2d),
        _conv(1, 16, 4 * images, 4 * images, 4 * images, out=32, function=F.conv3d),
        _attention(tokens, causal=True),
        _attention(tokens, causal=False),
        _elements("pointwise", "gelu", rows, F.gelu, 1.0, 1.0),
        _elements("pointwise", "relu", rows, F.relu, 1.0, 1.0),
        _elements("pointwise", "add", rows, torch.add, 1.0, 0.0, 2),
        _elements("pointwise", "silu", rows, F.silu, 1.0, 1.0),
        _elements("reduce", "layer_norm", rows, lambda x: F.layer_norm(x, (384,)), 10.0, 2.0),
        _elements("reduce", "softmax", rows, lambda x: F.softmax(x, -1), 10.0, 2.0),
        _elements("reduce", "sum", rows, lambda x: x.sum(-1), 1.0, 0.0),
        _elements("memory", "transposed copy", rows, lambda x: x.t().contiguous(), 1.0, 0.0),
        _elements("memory", "cat", rows, lambda x, y: torch.cat([x, y]), 2.0, 0.0, 2),
        *(_linear(dtype, rows // 4, wide, wide) for dtype in (torch.float64, torch.bfloat16)),
    ]


_ALONE = 0.1  # seconds of work by which ranks are compared: many turns of whoever shares a core
_SMALL = 1 << 20  # a pace whose tensors are all below this many bytes is a trial
_OPTIMIZERS: dict[str, Callable[[Sequence[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 1e-9),
    "momentum": lambda parameters: torch.optim.SGD(parameters, 1e-9, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 1e-9),
}
_TOUCHED = {"sgd": 3, "momentum": 5, "adamw": 7}  # numbers read and written per parameter
_PARAMETERS = ((2048, 2048),) * 2 + ((512, 1024),) * 4 + ((1024,),) * 12  # 41 MB: more than a cache holds


def rates(clock: Timer, tell: Callable[[str], None]) -> Iterator[TimedComputation]:
    """Everything that one rank computes. Collective over its ranks."""
    for operator in _operators(clock.pace.most < _SMALL):
        tell(f"{operator.work} {operator.name}, {str(operator.dtype).removeprefix('torch.')}")
        yield from _operator(clock, operator)
    tell("memory bandwidth")
    yield from _memory(clock)
    tell("an operator's floor")
    yield from _floor(clock)
    for name in _OPTIMIZERS:
        tell(f"optimizer {name}")
        yield _update(clock, name)


def overlap(clock: Timer, group: Comm) -> float:
    """The share of a sum over `group` that hides behind products of matrices, as gradient sums do behind backward.

    With a the seconds of the sum, b those of as long a computation, and c those of both at once: (a + b - c) / a.
    """
    numel = min(8 << 20, clock.pace.most) // 4
    bucket = group.empty(numel, torch.float32).zero_()
    x = torch.ones(256, 512)
    w = torch.ones(512, 512)
    alone = median(clock.time(lambda: group.start_all_reduce(bucket).wait()))
    product = median(clock.time(lambda: x @ w))
    count = max(1, round(alone / product))

    def both() -> None:
        work = group.start_all_reduce(bucket)
        for _ in range(count):
            torch.mm(x, w)
            work.test()
        work.wait()

    def compute() -> None:
        for _ in range(count):
            torch.mm(x, w)

    together, computing = median(clock.time(both)), median(clock.time(compute))
    group.release(bucket)
    return min(1.0, max(0.0, (alone + computing - together) / alone))


def each_alone(world: Comm, pace: Pace, tell: Callable[[str], None]) -> tuple[tuple[float, ...], ...]:
    """Seconds of the same work on every rank, once per repeat; all ranks at once, each by its own clock. Collective."""
    if world.rank == 0:
        tell("every rank by itself")
    x, weight = torch.rand(256, 512), torch.rand(512, 512)

    def work(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            F.gelu(F.linear(x, weight))
        return time.perf_counter() - start

    work(1)
    once: list[float] = world.gather_objects(work(1))  # type: ignore[assignment]  # what each has given
    times = max(1, round((_ALONE if pace.most >= _SMALL else 0.0) / min(once)))
    mine = []
    for _ in range(pace.repeats):
        world.barrier()
        mine.append(work(times))
    every: list[list[float]] = world.gather_objects(mine)  # type: ignore[assignment]
    return tuple(map(tuple, every))


def _operator(clock: Timer, row: _Operator) -> Iterator[TimedComputation]:
    operands = [torch.rand(shape, dtype=torch.float32).to(row.dtype).requires_grad_() for shape in row.shapes]
    forward = clock.time(lambda: row.function(*operands))
    about = ("operator", row.name, row.work, str(row.dtype).removeprefix("torch."))
    yield TimedComputation(*about, "forward", row.operations, forward)
    if row.backward:
        backward = clock.adjoint(row.function, *operands)
        yield TimedComputation(*about, "backward", row.operations * row.backward, backward)


def _memory(clock: Timer) -> Iterator[TimedComputation]:
    source, target = torch.ones(clock.pace.most), torch.ones(clock.pace.most)
    copied = clock.time(lambda: target.copy_(source))
    yield TimedComputation("memory", "copy in place", "", "float32", "forward", 2.0 * source.nbytes, copied)
    added = clock.time(lambda: source + target)
    yield TimedComputation("memory", "sum of two", "", "float32", "forward", 3.0 * source.nbytes, added)


def _floor(clock: Timer) -> Iterator[TimedComputation]:
    """Four operators on next to nothing."""
    x, weight = torch.ones(4, 16, requires_grad=True), torch.ones(16, 16, requires_grad=True)

    def chain(x: Tensor, weight: Tensor) -> Tensor:
        return F.layer_norm(F.gelu(F.linear(x, weight)), (16,)) + x

    yield TimedComputation("floor", "forward", "", "float32", "forward", 4.0, clock.time(lambda: chain(x, weight)))
    yield TimedComputation("floor", "backward", "", "float32", "backward", 4.0, clock.adjoint(chain, x, weight))


def _update(clock: Timer, name: str) -> TimedComputation:
    shapes = _PARAMETERS if clock.pace.most >= _SMALL else ((64, 64),) * 3
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = _OPTIMIZERS[name](parameters)
    seconds = clock.time(optimizer.step)
    moved = 4.0 * _TOUCHED[name] * sum(parameter.numel() for parameter in parameters)
    return TimedComputation("update", name, name, "float32", "forward", moved, seconds)
