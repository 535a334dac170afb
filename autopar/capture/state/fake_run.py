"""Forward run where the module's tensors are fakes, without memory: nothing is computed, and nobody sees them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from autopar.capture.diagnostics.logs import quiet
from autopar.capture.state.untouched_module import untouched
from autopar.capture.tracing.patches import patched

T = TypeVar("T")


Slot = tuple[str, dict[str, Any], str]  # the name of a tensor, the module's dict that it stands in, its key there


def slots(module: nn.Module) -> Iterator[Slot]:
    """Every place of a parameter or buffer; those of a module that is registered twice once."""
    for path, part in module.named_modules():
        for holder in (part._parameters, part._buffers):
            yield from ((f"{path}.{key}".lstrip("."), holder, key) for key in holder)


class _Outer(nn.Module):
    """Around a module, so that anything can be done to it where its tensors are exchanged for others."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def forward(self, work: Callable[[], T]) -> T:
        """Do it."""
        return work()


def on_fakes(module: nn.Module, fake: FakeTensorMode | None, work: Callable[[FakeTensorMode], T]) -> T:
    """What `work` returns where the module's tensors are exchanged for fakes, which nobody sees again.

    So the user's own ``train()`` may do there as it likes, too.
    """
    outer, mode = _Outer(module), fake or FakeTensorMode(allow_non_fake_inputs=True)
    state = {name: holder[key] for name, holder, key in slots(outer) if holder[key] is not None}
    fakes = {id(tensor): mode.from_tensor(tensor) for tensor in state.values()} if fake is None else {}
    with quiet(), untouched(module), mode:
        result: T = torch.func.functional_call(
            outer, {name: fakes.get(id(tensor), tensor) for name, tensor in state.items()}, (partial(work, mode),)
        )
    return result


def exporting() -> AbstractContextManager[None]:
    """While active, models that ask whether they are exported are told so, and call what fake tensors can do."""
    return patched((torch.compiler, flag, True) for flag in ("_is_exporting_flag", "_is_compiling_flag"))
