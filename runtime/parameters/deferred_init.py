"""The initial values of a model's parameters and buffers, made one tensor at a time instead of all at once.

`initial_values(build, seed)` yields what ``torch.manual_seed(seed); build()`` would put into every parameter and
buffer, the same bits, while at most about one of them is in memory: the function is run on fake tensors, what it does
is recorded, and the record replayed in order. A rank can therefore make its part of a model that fits no machine. A
model that does with its tensors what cannot be recorded is built whole, and a line in the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from autopar.runtime.parameters.op_recorder import CannotReplay, OpRecorder
from autopar.runtime.parameters.op_replay import RANDOM_STATE, Slot, replay

_log = logging.getLogger("autopar.runtime")


def initial_values(build: Callable[[], nn.Module], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer of the model that `build` makes, under all its names, each as soon as it is ready.

    A tensor is to be used before the next one is asked for. The default generator is left as it was.
    """
    yielded: set[str] = set()
    try:
        for name, value in _replayed(build, seed):
            yield name, value
            yielded.add(name)
    except Exception as error:  # whatever fake tensors and a record do not allow, or the user's function raises on them
        text = "the initial model is built whole on every rank, since it cannot be made piece by piece: %s: %s"
        _log.warning(text, type(error).__name__, error)
        yield from (pair for pair in _built(build, seed) if pair[0] not in yielded)


def _replayed(build: Callable[[], nn.Module], seed: int) -> Iterator[tuple[str, Tensor]]:
    recorder, names = _record(build, seed)
    slots: dict[Slot, list[str]] = {}
    for name, tensor in names:
        if isinstance(tensor, Slot):
            slots.setdefault(tensor, []).append(name)
        else:
            yield name, tensor
    for slot, value in replay(recorder.records, tuple(slots), recorder.first_state, recorder.states_after):
        for name in slots[slot]:
            yield name, value


def module_values(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer of a module under all its names, tied and non-persistent ones included."""
    for name, tensor in _named(module):
        yield name, tensor.detach()


def _record(build: Callable[[], nn.Module], seed: int) -> tuple[OpRecorder, list[tuple[str, Slot | Tensor]]]:
    recorder = OpRecorder(seed)
    with RANDOM_STATE, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with FakeTensorMode(allow_non_fake_inputs=True), recorder:
            module = build()
        names: list[tuple[str, Slot | Tensor]] = []
        for name, tensor in _named(module):
            if isinstance(tensor, FakeTensor):
                if tensor.device.type != "cpu":
                    raise CannotReplay(f"{name} lies on {tensor.device}")
                names.append((name, recorder.slot(tensor)))
            else:
                names.append((name, tensor.detach()))
    return recorder, names


def _built(build: Callable[[], nn.Module], seed: int) -> Iterator[tuple[str, Tensor]]:
    with RANDOM_STATE, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build()
    yield from module_values(module)


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
