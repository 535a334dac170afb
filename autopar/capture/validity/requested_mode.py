"""In which mode a model is captured, and in which its program starts.

A model may come in evaluation, as pretrained ones do, or with some of its modules in it, so that they stay frozen. What its
own ``train()`` makes of it is what the program is for, and the program starts in the mode in which the model is. Where
one program cannot serve both, it serves the model as it stands, and says why it cannot be put into training.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from autopar.capture.state.fake_run import on_fakes, slots
from autopar.capture.tracing.storage import memory, version
from autopar.capture.validity.evaluation_mode import call_text, calls, first_line


@dataclass(frozen=True, slots=True)
class Mode:
    """The modules that train while a model is captured, and whether its program starts in evaluation.

    `stuck` says why ``train()`` of the program is refused: the model's own would lead to something else.
    """

    training: frozenset[nn.Module]
    evaluates: bool = False
    stuck: str = ""

    @contextlib.contextmanager
    def entered(self, module: nn.Module) -> Iterator[None]:
        """While active, just these modules train."""
        before = [(part, part.training) for part in module.modules()]
        try:
            for part, _ in before:
                part.training = part in self.training
            yield
        finally:
            for part, training in before:
                part.training = training


def modes(
    module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], fake: FakeTensorMode | None
) -> tuple[Mode, ...]:
    """How to capture the model: the best way first; another one where the program of the first could not evaluate."""
    now = _training(module)
    standing = Mode(now, evaluates=not now)
    if len(now) == len(list(module.modules())):
        return (standing,)
    try:
        own, changed = _after_train(module, fake)
        if changed:
            return (replace(standing, stuck=f"the model's own train() also changes {changed}"),)
        if own == now:
            return (standing,)
        stands, trains, evaluates = (calls(module, to, args, kwargs, fake, exact=True) for to in (None, True, False))
    except Exception as error:  # forward and train are the user's, and fake tensors have their own limits
        return (replace(standing, stuck=f"it cannot be tried in training: {first_line(error)}"),)
    if stands == trains:
        return (Mode(own),)
    call, other = next(pair for pair in itertools.zip_longest(trains, stands) if pair[0] != pair[1])
    asleep = [
        name for name, part in module.named_modules() if part in own - now and not any(True for _ in part.children())
    ]
    stuck = f"train() would change {', '.join(asleep[:5])}{' and others' if len(asleep) > 5 else ''}"
    stuck = f"{stuck}: forward {call_text(call)} in training, and {call_text(other)} as the model stands"
    if stands == evaluates and not module.training:
        return Mode(own, evaluates=True), Mode(now, evaluates=True, stuck=stuck)
    return (replace(standing, stuck=stuck),)


def _training(module: nn.Module) -> frozenset[nn.Module]:
    return frozenset(part for part in module.modules() if part.training)


def _after_train(module: nn.Module, fake: FakeTensorMode | None) -> tuple[frozenset[nn.Module], str]:
    """The modules that train after the model's own ``train()``, and the first other thing that this changes."""
    if all(type(part).train is nn.Module.train for part in module.modules()):
        return frozenset(module.modules()), ""

    def work(faking: FakeTensorMode) -> tuple[frozenset[nn.Module], str]:
        before = _attributes(module)
        module.train()
        after = _attributes(module)
        return _training(module), next((key for key in after if after[key] != before.get(key)), "")

    return on_fakes(module, fake, work)


def _attributes(module: nn.Module) -> dict[str, object]:
    """All that can change in a module but its flag: what is plain by its value, tensors by their version."""
    attributes: dict[str, object] = {}
    for path, part in module.named_modules():
        for key, value in vars(part).items():
            if key not in ("training", "_parameters", "_buffers", "_modules"):
                attributes[f"{path}.{key}".lstrip(".")] = (
                    value if isinstance(value, bool | int | float | str) else id(value)
                )
    for name, holder, key in slots(module):
        tensor = holder[key]
        attributes[name] = tensor is not None and (id(tensor), version(tensor), memory(tensor))
    return attributes
