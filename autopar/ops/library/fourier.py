"""Discrete Fourier transforms: the transformed dims are whole, all others are letters.

    fft      a [n] b -> a [n] b        rfft    a [n] b -> a [n/2 + 1] b        irfft   the other way round
    fft2, fftn and their kin           several dims are whole

A transform is linear, so partial sums pass through it. Between transforms of different dims the planner puts an
all-to-all. torch's kernels refuse a tensor without elements: every rank needs a row of every letter. 5 n log2 n
operations (Cooley and Tukey) for a complex transform of n numbers, half for a real one.
"""

from __future__ import annotations

import math
from dataclasses import replace

from autopar.ops.library.slicing import frozen_dims
from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Op, Sample, T, memory, register
from autopar.ops.record.printing import invoke
from autopar.ops.record.rule import Call, Rule, normal_dims

_LINES = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")  # along one dim
_PLANES = ("fft2", "ifft2", "rfft2", "irfft2")  # along two, the last by default
_SPACES = ("fftn", "ifftn", "rfftn", "irfftn")  # along all by default, or as many as sizes are given
_SHIFTS = ("fftshift", "ifftshift")


def _name(call: Call) -> str:
    return call.function.removeprefix("fft_")


def _dims(call: Call) -> tuple[int, ...]:
    """The transformed dims."""
    name, ndim = _name(call), len(call.operands[0].shape)
    if name in _SHIFTS:
        return normal_dims(call.arg(1, "dim"), ndim)
    sizes, dims = call.arg(1, "s"), call.arg(2, "dim")
    if name in _LINES:
        return normal_dims(-1 if dims is None else dims, ndim)
    if name in _PLANES:
        return normal_dims((-2, -1) if dims is None else dims, ndim)
    if dims is None and isinstance(sizes, tuple):
        return tuple(range(ndim - len(sizes), ndim))
    return normal_dims(dims, ndim)


def _transform(call: Call) -> Rule:
    """One letter per dim; a transformed one is whole, and another letter on either side, since its extent may change."""
    rule = frozen_dims(call, _dims(call))
    return replace(rule, filled=frozenset(rule.extents) - rule.frozen)


def _emit(ctx: EmitContext) -> str:
    name = _name(ctx.call)
    if name in _SHIFTS:
        return invoke(f"torch.fft.{name}", ctx.args[:1], [("dim", ctx.pick(1, "dim"), None)])
    size = "n" if name in _LINES else "s"
    default = -1 if name in _LINES else (-2, -1) if name in _PLANES else None
    dim = ctx.pick(2, "dim", default)
    if name in _PLANES and dim == (len(ctx.call.operands[0].shape) - 2, len(ctx.call.operands[0].shape) - 1):
        dim = default
    options = [
        (size, ctx.pick(1, size), None),
        ("dim", dim, default),
        ("norm", ctx.pick(3, "norm"), None),
    ]
    return invoke(f"torch.fft.{name}", ctx.args[:1], options)


def _flops(call: Call, rule: Rule) -> float:
    longest = max((call.operands[0], call.results[0]), key=lambda value: value.numel)
    points = math.prod(longest.shape[dim] for dim in _dims(call))
    real = not (call.operands[0].dtype.startswith("complex") and call.results[0].dtype.startswith("complex"))
    return (2.5 if real else 5.0) * longest.numel * math.log2(max(points, 2))


def _samples() -> tuple[Sample, ...]:
    x, z = T((3, 4, 6)), T((3, 4, 5), "complex")

    def of(name: str, *args: object) -> Sample:
        return Sample(args, target=f"aten.fft_{name}.default")

    return (
        of("fft", x),
        of("fft", z, None, 1, "ortho"),
        of("ifft", z, 7),
        of("rfft", x),
        of("rfft", x, 5, 0, "forward"),
        of("irfft", z, 9),
        of("irfft", z),
        of("hfft", z),
        of("ihfft", x, None, 1),
        of("fft2", T((2, 3, 2, 4), "complex")),
        of("ifft2", z, (4, 3)),
        of("rfft2", T((2, 3, 4, 3)), None, (1, 2)),
        of("irfft2", T((2, 3, 4, 3), "complex"), (4, 4)),
        of("fftn", T((2, 3, 4, 2)), None, (1, 3)),
        of("ifftn", z, (2, 4)),
        of("rfftn", T((2, 2, 3, 4, 3)), None, (2, 3, 4)),
        of("irfftn", T((2, 4, 3), "complex"), (4, 4), (-2, -1), "ortho"),
    )


register(
    Op(
        name="fourier",
        targets=tuple(f"aten.fft_{name}.default" for name in (*_LINES, *_PLANES, *_SPACES)),
        note="a [n] b -> a [n'] b",
        rule=_transform,
        emit=_emit,
        work="reduce",
        flops=_flops,
        saves="",
        samples=_samples(),
    )
)
memory(
    "fftshift",
    tuple(f"aten.fft_{name}.default" for name in _SHIFTS),
    "a [n] b -> a [n] b",
    _transform,
    _emit,
    Sample((T((3, 5)), (1,))),
    Sample((T((4, 5), "complex"),), target="aten.fft_ifftshift.default"),
)
