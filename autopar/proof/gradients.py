"""Which operands could have a gradient in a call, and have one in no sample: a rule is proved for gradients only there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from autopar.ops.record.op import Op, Sample, T
from autopar.proof.reference import REFUSED, outcome, tensors
from autopar.proof.variations import arguments, samples_for

_KINDS = ("normal", "unit", "definite")


def unasked(op: Op) -> list[str]:
    """``aten.x.default: weight`` for every argument that can have a gradient, and in no sample of its target has one."""
    return [f"{target}: {name}" for target in op.targets for name in _unasked_of(op, target)]


def _unasked_of(op: Op, target: str) -> list[str]:
    samples = list(samples_for(op, target))
    flowing = {name for sample in samples for name, kind in _kinds(sample, target) if _flows(op, sample, name)}
    names = dict.fromkeys(name for sample in samples for name, _ in _kinds(sample, target) if name not in flowing)
    return [name for name in names if any(_flows(op, new, name) for sample in samples for new in _made(sample, name))]


def _kinds(sample: Sample, target: str) -> Iterator[tuple[str, str]]:
    """The tensors of a sample, in order: the argument's name and the tensor's kind."""
    names = [arg.name for arg in arguments(target)]
    for at, value in enumerate(sample.args):
        name = names[at] if at < len(names) else f"argument {at}"
        yield from ((name, tensor.kind) for tensor in tensors(value))
    for name, value in sample.kwargs:
        yield from ((name, tensor.kind) for tensor in tensors(value))


def _made(sample: Sample, name: str) -> Iterator[Sample]:
    """The sample with tensors that have a gradient for this argument."""
    names = [arg.name for arg in arguments(sample.target)]
    for kind in _KINDS:
        args = tuple(
            _with_kind(value, kind) if (names[at] if at < len(names) else f"argument {at}") == name else value
            for at, value in enumerate(sample.args)
        )
        kwargs = tuple((key, _with_kind(value, kind) if key == name else value) for key, value in sample.kwargs)
        yield replace(sample, args=args, kwargs=kwargs)


def _with_kind(value: object, kind: str) -> object:
    if isinstance(value, tuple):
        return tuple(_with_kind(item, kind) for item in value)
    return replace(value, kind=kind) if isinstance(value, T) else value


def _flows(op: Op, sample: Sample, name: str) -> bool:
    """Whether torch has a gradient for this argument of the sample."""
    try:
        operands, results = outcome(op, sample)
        return _any_gradient(sample, name, operands, results)
    except REFUSED:
        return False


def _any_gradient(sample: Sample, name: str, operands: Sequence[torch.Tensor], results: Sequence[torch.Tensor]) -> bool:
    roots = [result for result in results if result.requires_grad]
    places = [at for at, (argument, _) in enumerate(_kinds(sample, sample.target)) if argument == name]
    leaves = [operands[at] for at in places if operands[at].requires_grad]
    if not roots or not leaves:
        return False
    seeds = [torch.ones_like(root) for root in roots]
    return any(gradient is not None for gradient in torch.autograd.grad(roots, leaves, seeds, allow_unused=True))
