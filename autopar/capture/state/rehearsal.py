"""Forward run a few times on tensors without memory, one run after the other, to see what it hands on to its next run.

Every call of an operator is noted by its name, its literals, and its operands: one that depends on inputs, parameters or
buffers by its shape, any other by how it was computed. So a value that forward computes once and keeps (a mask, a table
of positions) leaves no trace, and one that follows a counter does. A tensor that depends on one run's inputs and is read
in a later run is carried over.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

from autopar.capture.state.fake_run import exporting, on_fakes, slots
from autopar.capture.tracing.known_numbers import KnownNumbers
from autopar.capture.tracing.reworded_calls import rewording
from autopar.capture.tracing.storage import memory, tensors_in, version

_SHAPE_ONLY = ("aten.new_", "aten.empty_like", "aten.zeros_like", "aten.ones_like", "aten.full_like")
_SMALL = 2**16  # elements of a constant whose numbers are looked at


@dataclass(frozen=True, slots=True)
class SeenTensor:
    """A tensor that was met: in which run (0: it was there before all), whether it depends on anything given, and how it
    was computed. It is kept alive, so that its id is not used again.
    """

    tensor: Tensor
    run: int
    live: bool
    digest: str


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What was seen: per run the calls of what depends on anything given; the code that ran; the calls
    that read a tensor of an earlier run; the caches that hold anything but constants; what else forward writes to of the
    buffers that are no part of the state."""

    calls: list[list[str]] = field(default_factory=list)
    codes: set[CodeType] = field(default_factory=set)
    carried: list[str] = field(default_factory=list)
    unlike: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the calls of operators."""

    def __init__(self, tensors: list[Tensor], fixed: Mapping[str, Tensor], seen: Rehearsal) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {id(x): SeenTensor(x, 0, True, "") for x in tensors}  # of tied tensors one
        self._known |= {id(x): SeenTensor(x, 0, False, name) for name, x in fixed.items()}
        self._storages = {memory(known.tensor): known for known in self._known.values()}
        self._seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Note the call and make it."""
        kwargs = dict(kwargs or {})
        operands = [self._look_up(tensor) for tensor in tensors_in((args, kwargs))]
        spelled = iter(["live" if operand.live else operand.digest for operand in operands])
        described = tree_map_only(Tensor, lambda x: (next(spelled), tuple(x.shape), x.dtype), (args, kwargs))
        drawn = torch.Tag.nondeterministic_seeded in func.tags
        live = drawn or any(operand.live for operand in operands)
        text = f"{func} {described}"
        run = len(self._seen.calls)
        if live and func.namespace != "prim":  # that asks for a device or a layout
            self._seen.calls[-1].append(text)
            self._seen.carried.extend([text] * any(operand.live and 0 < operand.run < run for operand in operands))
        result = func(*args, **kwargs)
        flows = live and not str(func).startswith(_SHAPE_ONLY)
        for i, tensor in enumerate(tensors_in(result)):
            digest = hashlib.sha1(f"{i} {text}".encode()).hexdigest()
            if func is torch.ops.aten.slice.Tensor and tensor.shape == args[0].shape:
                digest = operands[0].digest  # all of it
            self._note(SeenTensor(tensor, run, flows, digest))
        return result

    def constant(self, tensor: Tensor | None) -> bool:
        """Whether a tensor depends on nothing that changes."""
        return tensor is not None and not self._look_up(tensor).live

    def _note(self, known: SeenTensor) -> None:
        before = self._storages.get(memory(known.tensor))
        if before is not None and before.live and known.live and before.run == 0:
            known = before  # a view of what was there before all
        self._known[id(known.tensor)] = self._storages[memory(known.tensor)] = known

    def _look_up(self, tensor: Tensor) -> SeenTensor:
        known = self._known.get(id(tensor)) or self._storages.get(memory(tensor))
        return known or SeenTensor(tensor, len(self._seen.calls), isinstance(tensor, FakeTensor), _numbers(tensor))


def _numbers(tensor: Tensor) -> str:
    """A constant by its numbers, a large one by itself."""
    if isinstance(tensor, FakeTensor) or tensor.is_meta or tensor.numel() > _SMALL:
        return str(id(tensor))
    with _disable_current_modes():  # it is real, and would be made fake
        return hashlib.sha1(repr(tensor.detach().reshape(-1).tolist()).encode()).hexdigest()


def rehearse(
    module: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    runs: int,
    after: Callable[[], object],
    last: Callable[[], object],
    caches: AbstractSet[str] = frozenset(),
    written: AbstractSet[str] = frozenset(),
) -> Rehearsal:
    """Run forward so many times, calling `after` after each, and `last` before the last. Raises what forward raises.

    What forward puts into `caches`, named buffers, it finds there in its next run. Beside them, buffers that are not saved are
    constants, but for those known to be `written`.
    """
    seen = Rehearsal()
    places = list(slots(module))
    fake = next((tensor.fake_mode for _, held, key in places if isinstance(tensor := held[key], FakeTensor)), None)

    def work(mode: FakeTensorMode) -> None:
        inputs: Any = args, dict(kwargs)
        inputs = tree_map_only(Tensor, mode.from_tensor, inputs) if fake is None else inputs
        stored = [held[key] for _, held, key in places]
        fixed = {name: x for name, x in _unsaved(module).items() if name not in written} if caches else {}
        versions = {name: version(tensor) for name, tensor in fixed.items()}
        recorder = _Recorder(tensors_in((stored, inputs)), fixed, seen)
        for run in range(runs):
            if run == runs - 1:
                last()
            seen.calls.append([])
            with KnownNumbers(), rewording(), recorder, exporting(), _profiled(seen.codes):
                module(*inputs[0], **inputs[1])
            after()
            for (name, held, key), tensor in zip(places, stored, strict=True):
                if name not in caches:
                    held[key] = tensor  # a buffer that was given another tensor: its update is an output of the program
                elif not recorder.constant(held[key]):
                    seen.unlike.add(key)
            seen.written.update(name for name, tensor in fixed.items() if version(tensor) != versions[name])

    on_fakes(module, fake, work)
    return seen


def _unsaved(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that are no part of the state."""
    return {
        f"{path}.{key}".lstrip("."): tensor
        for path, part in module.named_modules()
        for key, tensor in part._buffers.items()
        if key in part._non_persistent_buffers_set and tensor is not None
    }


@contextmanager
def _profiled(codes: set[CodeType]) -> Iterator[None]:
    """While active, the code of every Python function that is called is added to `codes`."""
    before = sys.gettrace()

    def note(frame: FrameType, event: str, _: object) -> None:  # returns no function to trace the lines by
        codes.add(frame.f_code)

    sys.settrace(note)  # not `setprofile`, which is told of every return and every builtin as well
    try:
        yield
    finally:
        sys.settrace(before)
