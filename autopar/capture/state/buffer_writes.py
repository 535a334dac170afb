"""Forward while it is traced, with what torch.export loses of its writes put in words that it keeps.

x.data              x.detach(), which shares x's memory for writes, too
x.data = y          x.detach().copy_(y)
self.buffer = y     at the end of forward: buffer.copy_(y), of all assigned buffers after all are read;
                    the same for a parameter that takes no gradient

A buffer outside of the state that forward finds empty, or too small, and replaces by one of another shape is a cache: nothing is
written, and whether each call computes the same, with it and without it, is to be seen (`autopar.capture.state.python_state`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autopar.capture.diagnostics.refusals import NotAllowed, tensor_text
from autopar.capture.state.fake_run import Slot, slots
from autopar.capture.tracing.reworded_calls import rewording


@contextlib.contextmanager
def writing(module: nn.Module) -> Iterator[set[str]]:
    """While active, ``module.forward`` writes as above. Attributes of the module are not put back here.

    Gives the names of caches, as they are met.
    """
    inner = module.forward
    caches = set[str]()

    @functools.wraps(inner)
    def forward(*args: object, **kwargs: object) -> object:
        places = list(slots(module))
        before = [holder[key] for _, holder, key in places]
        with rewording(), _Written(), _assignments_unseen():
            result = inner(*args, **kwargs)
            caches.update(_put_back_caches(module, places, before))
            _store(places, before)
        return result

    module.forward = forward
    try:
        yield caches
    finally:
        module.__dict__.pop("forward")


@contextlib.contextmanager
def _assignments_unseen() -> Iterator[None]:
    """torch.export stores assigned buffers of the outermost module, one after the other: two that swap become one."""
    hooks = torch.nn.modules.module._global_buffer_registration_hooks
    theirs = {key: hook for key, hook in hooks.items() if "register_buffer_assignment_hook" in hook.__qualname__}
    for key in theirs:
        del hooks[key]
    try:
        yield
    finally:
        hooks.update(theirs)


class _Written(TorchFunctionMode):
    """Reads and writes of ``.data`` as reads and writes of a detached tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Make the call, or what stands for it."""
        if getattr(func, "__self__", None) is Tensor.data:
            return args[0].detach() if func.__name__ == "__get__" else _replace(args[0], args[1])
        return func(*args, **dict(kwargs or {}))


def _replace(old: Tensor, new: Tensor) -> None:
    """``old.data = new``. Raises NotAllowed for another shape or dtype, which no tensor of a program can take on."""
    if old.shape != new.shape or old.dtype != new.dtype:
        fault = f"a tensor of {_spell(old)} is given data of {_spell(new)}"
        raise NotAllowed(fault, "a tensor of the program keeps its shape and dtype", "make a new tensor instead")
    old.detach().copy_(new.detach())


def _put_back_caches(module: nn.Module, places: Sequence[Slot], before: Sequence[Tensor | None]) -> Iterator[str]:
    """Put back the buffers, no part of the state, that forward has replaced by something of another shape; their names."""
    unsaved = {id(part._buffers): part._non_persistent_buffers_set for part in module.modules()}
    for (name, holder, key), old in zip(places, before, strict=True):
        new = holder.get(key)
        if key in unsaved.get(id(holder), ()) and new is not None and (old is None or old.shape != new.shape):
            holder[key] = old
            yield name


def _store(places: Sequence[Slot], before: Sequence[Tensor | None]) -> None:
    """Put back every tensor that forward has replaced by another, and write the other's numbers into it."""
    changed = [
        (name, holder, key, old)
        for (name, holder, key), old in zip(places, before, strict=True)
        if holder.get(key) is not old
    ]
    for name, holder, key, old in changed:
        _check(name, old, holder.get(key))
    values = [holder[key].clone() for _, holder, key, _ in changed]
    for (_, holder, key, old), value in zip(changed, values, strict=True):
        assert old is not None
        old.copy_(value)
        holder[key] = old


def _check(name: str, old: Tensor | None, new: Tensor | None) -> None:
    """Raise NotAllowed where one state of a program cannot become the other."""
    rule = "a program's parameters and buffers keep their number, shapes and dtypes"
    fix = "register the buffer with the shape that it has in training, and write to it with copy_"
    if old is None or new is None:
        raise NotAllowed(f"forward sets {name}, which was {_spell(old)}, to {_spell(new)}", rule, fix)
    if old.shape != new.shape or old.dtype != new.dtype:
        raise NotAllowed(f"forward replaces {name} of {_spell(old)} by one of {_spell(new)}", rule, fix)
    if old.requires_grad:
        fault = f"forward puts another tensor in the place of the parameter {name}, which an optimizer trains"
        rule = "what is trained stays the same tensor"
        raise NotAllowed(fault, rule, "write to it in place under torch.no_grad(): self.weight.copy_(new)")


def _spell(tensor: Tensor | None) -> str:
    return "None" if tensor is None else tensor_text(tensor)
