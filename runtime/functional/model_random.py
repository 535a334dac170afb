"""The undivided model with the random numbers of a program: torch's own draws replaced by those of
`autopar.runtime.grid.counter_rng`.

A dropout, an attention with dropout or a call of ``torch.rand`` comes down to few operators that draw (`bernoulli_`,
`uniform_`, ...). Under ``ProgramRandom()`` these draw whole tensors by step, call and place. A program makes the same draws in the
same order and keeps a part of each, so that both compute the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from autopar.errors import ConfigError, refusal
from autopar.runtime.functional.dropout import bernoulli, bernoulli_of, exponential_like, kept, rand, randint, randn

_aten = torch.ops.aten
_RULE = (
    "a program draws uniform, normal, exponential, Bernoulli and whole numbers; "
    "other operators that draw have no counterpart in it"
)


def _sized(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def draw(size: Sequence[int], **options: Any) -> Tensor:  # noqa: ANN401
        return function(size, dtype=options.get("dtype"), device=options.get("device"))

    return draw


def _like(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def draw(x: Tensor, **options: Any) -> Tensor:  # noqa: ANN401
        return function(x.shape, dtype=options.get("dtype") or x.dtype, device=x.device)

    return draw


def _uniform_(x: Tensor, low: float = 0.0, high: float = 1.0, generator: object = None) -> Tensor:
    return x.copy_(rand(x.shape, {}, x.dtype, x.device) * (high - low) + low)


def _normal_(x: Tensor, mean: float = 0.0, std: float = 1.0, generator: object = None) -> Tensor:
    return x.copy_(randn(x.shape, {}, x.dtype, x.device) * std + mean)


def _native_dropout(x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    mask = kept(1 - p, x.shape, {}, x.device) if train is not False else torch.ones_like(x, dtype=torch.bool)
    return x * mask * (1 / (1 - p) if p < 1 and train is not False else float(train is False)), mask


_TABLE: Mapping[object, Callable[..., object]] = {
    _aten.bernoulli_.float: lambda x, p=0.5, generator=None: x.copy_(bernoulli(x, p)),
    _aten.bernoulli.p: lambda x, p, generator=None: bernoulli(x, p),
    _aten.bernoulli.default: lambda x, generator=None: bernoulli_of(x),
    _aten.exponential_.default: lambda x, rate=1.0, generator=None: x.copy_(exponential_like(x, rate)),
    _aten.exponential.default: lambda x, rate=1.0, generator=None: exponential_like(x, rate),
    _aten.rand.default: _sized(rand),
    _aten.randn.default: _sized(randn),
    _aten.randint.default: lambda high, size, dtype=torch.int64, **_: randint(0, high, size, {}, dtype),
    _aten.randint.low: lambda low, high, size, dtype=torch.int64, **_: randint(low, high, size, {}, dtype),
    _aten.rand_like.default: _like(rand),
    _aten.randn_like.default: _like(randn),
    _aten.uniform_.default: _uniform_,
    _aten.uniform.default: lambda x, low=0.0, high=1.0, generator=None: _uniform_(torch.empty_like(x), low, high),
    _aten.normal_.default: _normal_,
    _aten.normal_functional.default: lambda x, mean=0.0, std=1.0, generator=None: _normal_(
        torch.empty_like(x), mean, std
    ),
    _aten.native_dropout.default: _native_dropout,
}


class ProgramRandom(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, inside a step (`counter_rng.drawing`), torch draws as a program does. Raises ConfigError where it cannot."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: OpOverload[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """The replaced call, or the call itself."""
        options = dict(kwargs or {})
        if func in _TABLE:
            return _TABLE[func](*args, **options)
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **options)
        before = torch.get_rng_state()
        result = func(*args, **options)
        if not torch.equal(before, torch.get_rng_state()):
            fix = "leave this operator out of the model, or compare with its probability set to 0"
            raise ConfigError(refusal("the sequential model", f"draws random numbers by {func}", _RULE, fix=fix))
        return result
