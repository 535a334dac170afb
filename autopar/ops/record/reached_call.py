"""Which ATen call a function of torch really makes: its overload and all of its arguments, defaults included.

Functions in ``torch`` are made from the schemas, but their defaults may differ (``reduction`` of some losses), and several
overloads of one name may fit the same arguments. So a call is put to torch itself, on tensors without memory, and
stopped where it is dispatched: `torch.export` takes a model apart in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.schema_check_mode import SchemaCheckMode

from autopar.ir.graph import Dtype, Ref
from autopar.ops.record.overloads import overload_of
from autopar.ops.record.rule import Call


class _Stopped(Exception):
    """The call has been seen."""


class _Spy(SchemaCheckMode):  # type: ignore[no-untyped-call]  # its base class takes keywords
    """Stops at the first ATen call. Only few classes of modes may see calls before they are taken apart; this is one."""

    def __init__(self) -> None:
        super().__init__()
        self._dispatch_key = torch._C.DispatchKey.PreDispatch
        self.seen: tuple[Any, Sequence[object], Mapping[str, object]] | None = None

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> None:
        self.seen = func, args, kwargs or {}
        raise _Stopped


def reached(
    function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> tuple[str, dict[str, object]] | None:
    """The overload that the call reaches first, and its arguments by name; None where torch does not take the call."""
    spy = _Spy()
    try:
        with enable_python_dispatcher(), spy:
            function(*args, **kwargs)
    except _Stopped:
        pass
    except (TypeError, RuntimeError, ValueError, IndexError, AssertionError):
        return None
    if spy.seen is None:
        return None
    overload, positional, named = spy.seen
    return str(overload), with_defaults(overload, positional, named)


def with_defaults(overload: Any, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:  # noqa: ANN401
    """All arguments of an overload by name."""
    schema = overload._schema.arguments
    defaults = {arg.name: arg.default_value for arg in schema if arg.has_default_value()}
    passed = {arg.name: value for arg, value in zip(schema, args, strict=False)}
    return defaults | passed | dict(kwargs)


def reaches(function: Callable[..., object], call: Call, args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
    """Whether the function, given these arguments of a call, comes to the call itself: overload and every argument."""
    tensors = {value.name: _tensor(value.shape, value.dtype) for value in call.operands}

    def real(argument: Any) -> Any:  # noqa: ANN401
        if isinstance(argument, Ref):
            return tensors[argument.name]
        if isinstance(argument, Dtype):
            return getattr(torch, argument.name)
        return tuple(map(real, argument)) if isinstance(argument, tuple) else argument

    seen = reached(function, [real(value) for value in args], {name: real(value) for name, value in kwargs.items()})
    if seen is None or seen[0] != call.node.target:
        return False
    node = call.node
    named = {name: real(value) for name, value in node.kwargs}
    meant = with_defaults(overload_of(node.target), [real(value) for value in node.args], named)
    return all(_same(seen[1].get(name), value) for name, value in meant.items())


def _tensor(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


def _same(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor):
        return left is right
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return left == right
