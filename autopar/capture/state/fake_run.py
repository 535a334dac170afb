"""Forward run where the module's tensors are fakes, without memory: nothing is computed, and nobody sees them again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from autopar.capture.diagnostics.logs import quiet
from autopar.capture.state.untouched_module import untouched

T = TypeVar("T")


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
    state = {
        f"{path}.{key}": one
        for path, part in outer.named_modules()  # each once, wherever it is registered
        for key, one in (*part._parameters.items(), *part._buffers.items())
        if one is not None
    }
    fakes = {id(one): mode.from_tensor(one) for one in state.values()} if fake is None else {}
    with quiet(), untouched(module), mode:
        result: T = torch.func.functional_call(
            outer, {name: fakes.get(id(one), one) for name, one in state.items()}, (partial(work, mode),)
        )
    return result


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """While active, models that ask whether they are exported are told so, and call what fake tensors can do."""
    before = torch.compiler._is_exporting_flag, torch.compiler._is_compiling_flag
    torch.compiler._is_exporting_flag = torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_exporting_flag, torch.compiler._is_compiling_flag = before
