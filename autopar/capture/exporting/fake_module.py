"""The module to export, without allocating its parameters, and the arguments to call it with.

A function that returns a module is called under ``torch.device("meta")``, where tensors have shapes and no memory. The
parameters and buffers are then exchanged for fake CPU tensors (shapes without memory again, but with a device), so that
``torch.arange(n)`` in forward, ``torch.autocast("cpu")`` and tensor literals do what they do in an ordinary run.
A function that cannot run on meta is called on the CPU. A live module is used as it stands and is never changed.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from autopar.capture.diagnostics.logs import LOG
from autopar.capture.diagnostics.refusals import check_tensors, tensor_text
from autopar.capture.diagnostics.source_lines import frames_of_error, innermost
from autopar.capture.state.fake_run import slots
from autopar.capture.state.gradient_hooks import check_hooks
from autopar.capture.tracing.patches import patched
from autopar.errors import CaptureError, fix_for, nearest, refusal

Model = nn.Module | Callable[[], nn.Module]
Examples = tuple[object, ...] | Mapping[str, object]


@dataclass(frozen=True, slots=True)
class FakeModule:
    """A module ready to be exported. `mode` is set where its tensors are fake, `rebuild` where a function made it."""

    module: nn.Module
    mode: FakeTensorMode | None
    rebuild: Callable[[], nn.Module] | None


def build(model: Model, name: str) -> FakeModule:
    """The module that `model` is or returns, on fake tensors wherever that is possible."""
    if isinstance(model, nn.Module):
        check_hooks(model)
        if all(tensor.is_meta for tensor in _tensors(model)) and any(True for _ in _tensors(model)):
            return _faked(copy.deepcopy(model), None)
        return FakeModule(model, None, None)
    try:
        with torch.device("meta"):
            module = model()
    except Exception as error:  # a user's constructor may raise anything on meta tensors
        LOG.info("%s cannot be made on the meta device (%s); it is made on the CPU", name, error)
        return build_on_cpu(model, name)
    return _faked(_checked(module, name), model)


def build_on_cpu(model: Callable[[], nn.Module], name: str) -> FakeModule:
    """The module that the function returns, on real memory. Raises CaptureError where the function fails."""
    try:
        module = model()
    except Exception as error:  # the function is the user's and may raise anything
        frame = innermost(frames_of_error(error), frozenset())
        where = frame.text if frame else name
        fault = f"the model cannot be made: {type(error).__name__}: {error}"
        rule = "a model is an nn.Module, or a function without arguments that returns one"
        raise CaptureError(refusal(where, fault, rule, fix=fix_for(error))) from error
    return FakeModule(_checked(module, name), None, model)


def real_buffers(make: Callable[[], nn.Module]) -> dict[str, torch.Tensor]:
    """Values of every buffer, from a second construction in which only parameters stay on the meta device.

    There are none where the function cannot run so: the model is then made on the CPU.
    """
    try:
        with _parameters_on_meta():
            module = make()
    except Exception as error:  # a user's constructor may raise anything on meta parameters
        LOG.info("the model cannot be made with parameters on the meta device: %s", error)
        return {}
    return {name: tensor for name, tensor in module.named_buffers(remove_duplicate=False) if not tensor.is_meta}


def arguments(examples: Examples, built: FakeModule) -> tuple[tuple[object, ...], dict[str, object]]:
    """Positional and keyword arguments of forward; every tensor a separate one, on the module's device."""
    args, kwargs = ((), dict(examples)) if isinstance(examples, Mapping) else (tuple(examples), {})
    _check_signature(built.module, args, kwargs)
    check_tensors(f"example_inputs of {type(built.module).__name__}", input_pairs(args, kwargs))
    check_tensors(type(built.module).__name__, [*built.module.named_parameters(), *built.module.named_buffers()])
    place = _placer(built)
    return tuple(place(value) for value in args), {key: place(value) for key, value in kwargs.items()}


def input_names(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> tuple[str, ...]:
    """One name per argument: forward's parameter name or the keyword, ``args_0``, ``args_1`` for those of ``*args``."""
    names: list[str] = []
    for key, value in inspect.signature(module.forward).bind(*args, **kwargs).arguments.items():
        kind = inspect.signature(module.forward).parameters[key].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{key}_{i}" for i in range(len(value))]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            names += list(value)
        else:
            names.append(key)
    positional = names[: len(args)]
    return (*positional, *kwargs)


def describe(args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[str]:
    """One line per argument: ``x: float32 (8, 3)``."""
    return [f"{name}: {_spell(value)}" for name, value in input_pairs(args, kwargs)]


def input_pairs(args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[tuple[str, object]]:
    """Every argument with what to call it."""
    return [*((f"argument {i}", value) for i, value in enumerate(args)), *kwargs.items()]


def _spell(value: object) -> str:
    return tensor_text(value) if isinstance(value, torch.Tensor) else repr(value)


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _checked(module: object, name: str) -> nn.Module:
    if isinstance(module, nn.Module):
        check_hooks(module)
        return module
    fault = f"the function returned {type(module).__name__}"
    raise CaptureError(refusal(name, fault, "a model function returns an nn.Module", fix="return the module"))


def _faked(module: nn.Module, rebuild: Callable[[], nn.Module] | None) -> FakeModule:
    """Exchange every meta parameter and buffer for a fake CPU tensor, in place; tied ones stay tied."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # the originals live on: their ids must not be used again
    for _, holder, key in slots(module):
        tensor = holder[key]
        if tensor is not None and tensor.is_meta:
            fakes.setdefault(id(tensor), (_fake(tensor, mode), tensor))
            holder[key] = fakes[id(tensor)][0]
    return FakeModule(module, mode, rebuild)


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    with mode:
        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    return nn.Parameter(fake, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


def _placer(built: FakeModule) -> Callable[[object], object]:
    """How one argument becomes one of its own, so that inputs given as the same tensor stay two inputs."""
    device = next((tensor.device for tensor in _tensors(built.module)), torch.device("cpu"))
    mode = built.mode

    def place(value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return value
        return value.detach().clone().to(device) if mode is None else _fake(value.detach(), mode)

    return place


def _check_signature(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
    """Refuse arguments that forward does not take, lacks, or that are containers of tensors."""
    where, signature = f"example_inputs of {type(module).__name__}", inspect.signature(module.forward)
    known = tuple(signature.parameters)
    takes = f"forward takes ({', '.join(known)})"
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        unknown = [f"{key}: forward has no such argument{nearest(key, known)}" for key in kwargs if key not in known]
        fix = "give every argument that has no default, by position (a tuple) or by name (a dict)"
        raise CaptureError(refusal(where, str(error), takes, unknown + describe(args, kwargs), fix)) from None
    nested = [
        f"{key}: {type(value).__name__}"
        for key, value in input_pairs(args, kwargs)
        if isinstance(value, list | tuple | dict | set)
    ]
    if nested:
        rule = "every input is a tensor or a plain value"
        fix = "give tensors as separate arguments of forward"
        raise CaptureError(refusal(where, "a container among the inputs", rule, nested, fix))


def _parameters_on_meta() -> AbstractContextManager[None]:
    """While active, a parameter moves to the meta device as soon as a module registers it."""
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, None if param is None else nn.Parameter(param.to("meta"), param.requires_grad))

    return patched([(nn.Module, "register_parameter", on_meta)])
