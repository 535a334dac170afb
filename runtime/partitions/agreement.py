"""What the ranks of a communicator agree on before tensors move between partitions: shapes, type, and gradients.

A rank that only receives cannot know what it will get, and backward must run on all ranks or on none. So every
primitive on partitions begins with one small all-gather of what each rank brings. From it all ranks draw the same
conclusions: a mistake is the same error on every rank, and if any rank's tensor needs a gradient, then the results of
all ranks, those without elements included, are connected to the graph. What a rank brings that holds no part in the
source matters not, except whether it needs a gradient, which is then zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autopar.errors import ProgramMismatch, refusal
from autopar.runtime.primitives.autograd import linear
from autopar.runtime.transport.base import Comm

_TYPES = tuple(
    getattr(torch, name)
    for name in (
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
)
_WORDS = 20  # of one rank's message: type, grad mode, needs gradient, number of dims, dims


@dataclass(frozen=True, slots=True)
class Agreement:
    """The type of the tensors that move, every rank's local shape, and whether anybody needs a gradient."""

    name: str
    dtype: torch.dtype
    shapes: tuple[tuple[int, ...], ...]
    gradient: bool

    def connected(self, x: Tensor, holds: bool) -> Tensor:
        """`x` as autograd has to see it: on every rank with a gradient, or on none."""
        if x.requires_grad or not self.gradient:
            return x
        if holds:
            return x.detach().requires_grad_()
        return torch.empty(0, dtype=self.dtype, device=x.device, requires_grad=True)

    def refuse(self, problem: str, rule: str, ranks: Iterable[int], fix: str = "") -> ProgramMismatch:
        """The error for tensors of wrong shapes, the same on all ranks; names what each of `ranks` brings."""
        offenders = [f"rank {rank} brings shape {self.shapes[rank]}" for rank in ranks]
        return ProgramMismatch(refusal(self.name, problem, rule, offenders, fix))


def agree(name: str, x: Tensor, comm: Comm, holders: Sequence[int]) -> Agreement:
    """Learn what every rank brings to the primitive `name`; `holders` are the ranks whose tensors count.

    Collective over `comm`. Raises ProgramMismatch, on all ranks alike, where the holders' types differ, or where one
    rank records gradients that another one does not.
    """
    mine = [_TYPES.index(x.dtype), torch.is_grad_enabled(), x.requires_grad, x.dim(), *x.shape]
    assert len(mine) <= _WORDS, f"{name}: a tensor of {x.dim()} dims"
    words = torch.tensor(mine + [0] * (_WORDS - len(mine)))
    every = torch.empty(comm.size, _WORDS, dtype=torch.int64)
    comm.all_gather(words, every)
    brought: list[list[int]] = every.tolist()
    types = [_TYPES[words[0]] for words in brought]
    if len({types[rank] for rank in holders}) > 1:
        offenders = [f"rank {rank} brings {types[rank]}" for rank in holders]
        raise ProgramMismatch(refusal(name, "tensors of different types", "one tensor has one type", offenders))
    recording = [bool(words[1]) for words in brought]
    gradient = any(mode and needs for _, mode, needs, *_ in brought)
    if gradient and not all(recording):
        offenders = [f"rank {rank} runs without gradients" for rank, mode in enumerate(recording) if not mode]
        rule = "backward runs on all ranks or on none"
        raise ProgramMismatch(refusal(name, "some ranks record gradients", rule, offenders))
    shapes = tuple(tuple(words[4 : 4 + words[3]]) for words in brought)
    dtype = types[holders[0]]
    return Agreement(name, dtype, shapes, gradient and (dtype.is_floating_point or dtype.is_complex))


def between_partitions(forward: Callable[..., Tensor], adjoint: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`linear` for tensors that count on some ranks only: where one did not, its gradient is zeros of its own shape."""

    def returned(dy: Tensor, brought: tuple[torch.Size, torch.dtype], *arguments: object) -> Tensor:
        dx, (shape, dtype) = adjoint(dy, *arguments), brought
        return dx if dx.shape == shape else dx.new_zeros(shape, dtype=dtype)

    operator = linear(lambda x, _, *arguments: forward(x, *arguments), returned)
    return lambda x, *arguments: operator(x, (x.shape, x.dtype), *arguments)
