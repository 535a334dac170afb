"""A `torch.autograd.Function` whose backward is the user's own stays one call: torch.export would inline its forward alone.

While a model is exported, ``Straight.apply(x)`` is recorded as an operator (`autopar.ops.record.user_functions`) whose shapes
are those of its forward on fake tensors. Functions are caught below ``Function.apply``, since models keep ``straight =
Straight.apply`` in variables. torch's own checkpoint is no change of gradients: what it calls is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import _SingleLevelFunction
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointFunction

from autopar.capture.diagnostics.source_lines import line_here, user_files
from autopar.capture.tracing.storage import version
from autopar.errors import CaptureError, refusal
from autopar.ops.record.user_functions import keep, place_of, schema_type, spelled

_RULE = "a torch.autograd.Function with a backward of its own is kept as one call of tensors and plain values"
_LEVEL: Any = _SingleLevelFunction  # the class whose `apply` Function.apply ends in
_INSIDE = (
    "torch._",
    "torch.utils.checkpoint",
    "torch.nn.modules._functions",
)  # torch's machinery, no functions of a model


@contextlib.contextmanager
def functions_as_calls(module: nn.Module) -> Iterator[None]:
    """While active, functions that are applied while a graph is recorded are calls in it."""
    files = user_files(module)

    def apply(cls: type[Function], *args: Any) -> Any:  # noqa: ANN401 (whatever the function takes and returns)
        below = super(_LEVEL, cls).apply
        if get_proxy_mode() is None or not issubclass(cls, Function):
            return below(*args)
        if cls is CheckpointFunction:
            return args[0](*args[2:])
        return below(*args) if cls.__module__.startswith(_INSIDE) else _recorded(cls, args, files)

    _LEVEL.apply = classmethod(apply)
    try:
        yield
    finally:
        del _LEVEL.apply


def _recorded(cls: type[Function], args: Sequence[Any], files: frozenset[str]) -> Any:  # noqa: ANN401
    where = line_here(files)
    strange = [f"argument {i}: {_spell(value)}" for i, value in enumerate(args) if not schema_type(value)[0]]
    if strange:
        fix = "give tensors one by one, and numbers, strings or dicts of them; a function that computes a part of the "
        fix += "model again in backward "
        fix += "is not needed: call that part itself, and autopar computes again what does not fit into memory"
        raise _refused(where, f"{cls.__name__} takes something else", strange, fix)
    place = place_of(cls)
    if place is None:
        fault = f"{cls.__name__} cannot be found by its name, {cls.__module__}.{cls.__qualname__}"
        raise _refused(where, fault, (), "define it at the top of a file, not inside a function")
    results, tupled = _tried(cls, args, where)
    target = keep(cls, place, args, len(results), tupled).target
    space, name, overload = target.split(".")
    return getattr(getattr(getattr(torch.ops, space), name), overload)(*spelled(args))


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which operators draw random numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Note the call and make it."""
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def _tried(cls: type[Function], args: Sequence[Any], where: str) -> tuple[tuple[Tensor, ...], bool]:
    """The results of a trial that is not recorded, and whether they are a tuple. Raises CaptureError for what cannot be kept."""
    with disable_proxy_modes_tracing(), _Draws() as draws:
        leaves = [x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in args]
        own = [x.clone() if isinstance(x, Tensor) else x for x in leaves]  # leaves may not be changed in place
        versions = [version(x) for x in own if isinstance(x, Tensor)]
        output = super(_LEVEL, cls).apply(*own)
        changed = versions != [version(x) for x in own if isinstance(x, Tensor)]
        results = output if isinstance(output, tuple) else (output,)
        flows = [result for result in results if isinstance(result, Tensor) and result.requires_grad]
        if flows:
            _back(flows, [x for x in leaves if isinstance(x, Tensor) and x.requires_grad])
    if changed:
        raise _refused(where, f"{cls.__name__} changes an argument in place", (), "let it return a new tensor")
    if draws.found:
        fix = "draw in forward of the model, and give the numbers to the function"
        raise _refused(where, f"{cls.__name__} draws random numbers itself", sorted(set(draws.found)), fix)
    others = [f"result {i}: {_spell(value)}" for i, value in enumerate(results) if not isinstance(value, Tensor)]
    if others:
        raise _refused(where, f"{cls.__name__} returns something else", others, "let it return tensors only")
    return results, isinstance(output, tuple)


def _back(results: Sequence[Tensor], asking: Sequence[Tensor]) -> None:
    """Backward on tensors without numbers, as far as it goes: it may look at numbers, which it has when the program runs."""
    with contextlib.suppress(Exception), torch._C.DisableTorchFunction():  # a model may not do this in forward: `told`
        torch.autograd.grad(results, asking, [torch.ones_like(result) for result in results], allow_unused=True)


def _refused(where: str, fault: str, offenders: Sequence[str], fix: str) -> CaptureError:
    return CaptureError(refusal(where, fault, _RULE, offenders, fix))


def _spell(value: object) -> str:
    kind = type(value).__name__
    inner = sorted({type(item).__name__ for item in value}) if isinstance(value, list | tuple) else []
    return f"{kind} of {', '.join(inner)}" if inner else kind
