"""Which ATen call a function of torch really makes: its overload and all of its arguments, defaults included.

Functions in ``torch`` are made from the schemas, but their defaults may differ (``reduction`` of some losses), and several
overloads of one name may fit the same arguments. So a call is put to torch itself, on tensors without memory, and
stopped where it is dispatched: `torch.export` takes a model apart in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.schema_check_mode import SchemaCheckMode

from autopar.ir.graph import Dtype, Ref
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
    overload, given, named = spy.seen
    return str(overload), with_defaults(overload, given, named)


def with_defaults(overload: Any, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:  # noqa: ANN401
    """All arguments of an overload by name."""
    schema = overload._schema.arguments
    defaults = {one.name: one.default_value for one in schema if one.has_default_value()}
    given = {one.name: value for one, value in zip(schema, args, strict=False)}
    return defaults | given | dict(kwargs)


def overload_of(target: str) -> Any:  # noqa: ANN401
    """The overload of torch.ops that a target names."""
    return reduce(getattr, target.split("."), torch.ops)


def reaches(function: Callable[..., object], call: Call, args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
    """Whether the function, given these arguments of a call, comes to the call itself: overload and every argument."""
    tensors = {value.name: _tensor(value.shape, value.dtype) for value in call.operands}

    def real(argument: Any) -> Any:  # noqa: ANN401
        if isinstance(argument, Ref):
            return tensors[argument.name]
        if isinstance(argument, Dtype):
            return getattr(torch, argument.name)
        return tuple(map(real, argument)) if isinstance(argument, tuple) else argument

    found = reached(function, [real(one) for one in args], {name: real(one) for name, one in kwargs.items()})
    if found is None or found[0] != call.node.target:
        return False
    node = call.node
    named = {name: real(value) for name, value in node.kwargs}
    meant = with_defaults(overload_of(node.target), [real(one) for one in node.args], named)
    return all(_same(found[1].get(name), value) for name, value in meant.items())


def _tensor(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


def _same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return one is other
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other
