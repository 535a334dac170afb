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
    owners = dict.fromkeys(name for sample in samples for name in _owners(sample))
    flowing = {name for sample in samples for name in _owners(sample) if _flows(op, sample, name)}
    changed = {
        name: [new for sample in samples for new in _real(sample, name)] for name in owners if name not in flowing
    }
    return [name for name in changed if any(_flows(op, sample, name) for sample in changed[name])]


def _named(sample: Sample) -> list[tuple[str, object]]:
    """The arguments of a sample, in order, each with its name."""
    names = [arg.name for arg in arguments(sample.target)]
    names += [f"argument {at}" for at in range(len(names), len(sample.args))]
    return [*zip(names, sample.args, strict=False), *sample.kwargs]


def _owners(sample: Sample) -> list[str]:
    """The tensors of a sample, in order: the name of the argument that each stands in."""
    return [name for name, value in _named(sample) for _ in tensors(value)]


def _real(sample: Sample, name: str) -> Iterator[Sample]:
    """The sample with tensors that have a gradient for this argument."""
    count = len(sample.args)
    for kind in _KINDS:
        changed = [(key, _with_kind(value, kind) if key == name else value) for key, value in _named(sample)]
        yield replace(sample, args=tuple(value for _, value in changed[:count]), kwargs=tuple(changed[count:]))


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
    owned = zip(_owners(sample), operands, strict=True)
    leaves = [operand for owner, operand in owned if owner == name and operand.requires_grad]
    if not roots or not leaves:
        return False
    seeds = [torch.ones_like(root) for root in roots]
    return any(gradient is not None for gradient in torch.autograd.grad(roots, leaves, seeds, allow_unused=True))
