"""Forward run a few times on tensors without memory, one run after the other, to see what it hands on to its next run.

Every call of an operator is noted by its name, its literals, and its operands: one that depends on inputs, parameters or
buffers by its shape, any other by how it was computed. So a value that forward computes once and keeps (a mask, a table
of positions) leaves no trace, and one that follows a counter does. A tensor that depends on one run's inputs and is read
in a later run is carried over.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from autopar.capture.known import Known
from autopar.capture.memory import memory
from autopar.capture.modes import exporting, on_fakes
from autopar.capture.told import told

_SHAPE_ONLY = ("aten.new_", "aten.empty_like", "aten.zeros_like", "aten.ones_like", "aten.full_like")
_SMALL = 2**16  # elements of a constant whose numbers are looked at


@dataclass(frozen=True, slots=True)
class Met:
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
    that read a tensor of an earlier run."""

    calls: list[list[str]] = field(default_factory=list)
    codes: set[CodeType] = field(default_factory=set)
    carried: list[str] = field(default_factory=list)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the calls of operators."""

    def __init__(self, given: list[Tensor], seen: Rehearsal) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {id(one): Met(one, 0, True, "") for one in given}  # of tied tensors one
        self._storages = {memory(known.tensor): known for known in self._known.values()}
        self._seen = seen

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the operator returns)
        """Note the call and make it."""
        kwargs = dict(kwargs or {})
        given = [self._look_up(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        spelled = iter(["live" if one.live else one.digest for one in given])
        described = tree_map_only(Tensor, lambda one: (next(spelled), tuple(one.shape), one.dtype), (args, kwargs))
        drawn = torch.Tag.nondeterministic_seeded in func.tags
        live = drawn or any(one.live for one in given)
        text = f"{func} {described}"
        run = len(self._seen.calls)
        if live and func.namespace != "prim":  # that asks for a device or a layout
            self._seen.calls[-1].append(text)
            self._seen.carried.extend([text] * any(one.live and 0 < one.run < run for one in given))
        found = func(*args, **kwargs)
        flows = live and not str(func).startswith(_SHAPE_ONLY)
        for i, one in enumerate(leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)):
            self._note(Met(one, run, flows, hashlib.sha1(f"{i} {text}".encode()).hexdigest()))
        return found

    def _note(self, known: Met) -> None:
        before = self._storages.get(memory(known.tensor))
        if before is not None and before.live and known.live and before.run == 0:
            known = before  # a view of what was there before all
        self._known[id(known.tensor)] = self._storages[memory(known.tensor)] = known

    def _look_up(self, one: Tensor) -> Met:
        known = self._known.get(id(one)) or self._storages.get(memory(one))
        return known or Met(one, len(self._seen.calls), isinstance(one, FakeTensor), _numbers(one))


def _numbers(one: Tensor) -> str:
    """A constant by its numbers, a large one by itself."""
    if isinstance(one, FakeTensor) or one.is_meta or one.numel() > _SMALL:
        return str(id(one))
    with _disable_current_modes():  # it is real, and would be made fake
        return hashlib.sha1(repr(one.detach().reshape(-1).tolist()).encode()).hexdigest()


def rehearse(
    module: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    runs: int,
    after: Callable[[], object],
    last: Callable[[], object],
) -> Rehearsal:
    """Run forward so many times, calling `after` after each, and `last` before the last. Raises what forward raises."""
    seen = Rehearsal()
    holders: list[dict[str, Any]] = [held for part in module.modules() for held in (part._parameters, part._buffers)]
    slots = [(held, key) for held in holders for key in held]
    fake = next((one.fake_mode for held, key in slots if isinstance(one := held[key], FakeTensor)), None)

    def work(mode: FakeTensorMode) -> None:
        given: Any = args, dict(kwargs)
        given = tree_map_only(Tensor, mode.from_tensor, given) if fake is None else given
        stored = [held[key] for held, key in slots]
        recorder = _Recorder([one for one in tree_leaves((stored, given)) if isinstance(one, Tensor)], seen)
        for run in range(runs):
            if run == runs - 1:
                last()
            seen.calls.append([])
            with Known(), told(), recorder, exporting(), _profiled(seen.codes):
                module(*given[0], **given[1])
            after()
            for (held, key), one in zip(slots, stored, strict=True):
                held[key] = one  # a buffer that was given another tensor: its update is an output of the program

    on_fakes(module, fake, work)
    return seen


@contextmanager
def _profiled(codes: set[CodeType]) -> Iterator[None]:
    """While active, the code of every Python function that is called is added to `codes`."""
    before = sys.getprofile()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            codes.add(frame.f_code)

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)
