"""Hooks that backward calls: torch.export records forward alone, so what they do to gradients would be lost.

Hooks of modules, parameters and buffers are looked for before a model is captured, those that forward registers while it
runs. Hooks that forward calls are a part of what it computes, and are recorded as such.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn.modules import module as of_modules
from torch.overrides import TorchFunctionMode

from autopar.capture.diagnostics.source_lines import TORCH, line_here, user_files
from autopar.capture.tracing.patches import Patch, patched
from autopar.errors import CaptureError, refusal

_RULE = "a program goes backward by what forward computes; what a hook does to a gradient is not in it"
_FIX = (
    "write it as a torch.autograd.Function at the top of a file: its forward returns x.view_as(x), its backward what the hook "
    "returns; gradients of parameters may also be changed between backward() and step()"
)
_OF_MODULES = {
    "_backward_hooks": "register_full_backward_hook",
    "_backward_pre_hooks": "register_full_backward_pre_hook",
}
_OF_TENSORS = {
    "_backward_hooks": "register_hook",
    "_post_accumulate_grad_hooks": "register_post_accumulate_grad_hook",
}
_OF_ALL = {
    "_global_backward_hooks": "register_module_full_backward_hook",
    "_global_backward_pre_hooks": "register_module_full_backward_pre_hook",
}
_PROPERTIES: Any = Tensor
_GET_NODE = _PROPERTIES.grad_fn.__get__
_FLAGS = (Tensor.requires_grad_, _PROPERTIES.requires_grad.__set__)
_FLAG_RULE = "which parameters are trained is settled when a model is compiled"
_FLAG_FIX = "set it before, or use weight.detach() where no gradient is wanted"


def check_hooks(module: nn.Module) -> None:
    """Raise CaptureError where a module, a parameter or a buffer has a hook that backward calls."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    hooks = [
        *_hooks("every module", of_modules, _OF_ALL),
        *(hook for name, part in module.named_modules() for hook in _hooks(name or "the model", part, _OF_MODULES)),
        *(hook for name, tensor in tensors for hook in _hooks(name, tensor, _OF_TENSORS)),
    ]
    if hooks:
        where = next((place for *_, place in hooks if place), type(module).__name__)
        offenders = [f"{name}: {kind}({text})" for name, kind, text, _ in hooks]
        raise CaptureError(refusal(where, "backward would call a hook", _RULE, offenders, _FIX))


def _hooks(name: str, holder: object, kinds: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """Each hook: whose it is, how it was registered, what it is called, and where it stands."""
    pairs = [(kind, getattr(holder, attribute, None) or {}) for attribute, kind in kinds.items()]
    return [(name, kind, *_spelled(hook)) for kind, hooks in pairs for hook in hooks.values()]


def _spelled(hook: object) -> tuple[str, str]:
    """A hook's name, and its first line where it has one."""
    function: Any = inspect.unwrap(hook) if callable(hook) else hook
    function = getattr(function, "func", function)  # of a partial
    name = getattr(function, "__qualname__", type(function).__name__)
    try:
        lines, line = inspect.getsourcelines(function)
        return name, f"{Path(inspect.getsourcefile(function) or '').name}:{line}: `{lines[0].strip()}`"
    except (OSError, TypeError):
        return name, ""


@contextlib.contextmanager
def no_hooks(module: nn.Module) -> Iterator[None]:
    """While active, forward may register no hook that backward calls. Raises CaptureError at the line that does."""
    files = user_files(module)
    with _Watch(files), patched(_registrations(files)):
        yield


class _Watch(TorchFunctionMode):
    """Sees what forward calls of a tensor."""

    def __init__(self, files: frozenset[str]) -> None:
        super().__init__()
        self._files = files

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Refuse hooks, or make the call."""
        if func in (Tensor.register_hook, Tensor.register_post_accumulate_grad_hook):
            raise _refused(self._files, f"{func.__name__}: a hook of backward")
        if func in _FLAGS and isinstance(args[0], nn.Parameter):
            flag = next(iter((*args[1:], *(kwargs or {}).values())), True)
            if flag != args[0].requires_grad:
                raise _refused(self._files, "requires_grad of a parameter is changed", _FLAG_RULE, _FLAG_FIX)
        result = func(*args, **(kwargs or {}))
        if func == _GET_NODE and result is not None and not _called_by_torch():
            return _Node(result, self._files)
        return result


class _Node:
    """A node of autograd's graph as forward may see it: without a way to change gradients."""

    def __init__(self, node: object, files: frozenset[str]) -> None:
        self._node = node
        self._files = files

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever the node has)
        if name in ("register_hook", "register_prehook"):
            raise _refused(self._files, f"grad_fn.{name}: a hook of backward")
        return getattr(self._node, name)


def _called_by_torch() -> bool:
    """Whether the call that is being looked at was made by torch itself."""
    frame: Any = sys._getframe(2)
    while frame.f_code.co_name == "__torch_function__":
        frame = frame.f_back
    return bool(frame.f_code.co_filename.startswith(TORCH))


def _registrations(files: frozenset[str]) -> Iterable[Patch]:
    """Ways to register a hook that do not pass through a tensor, each with what refuses it."""

    def refused(name: str) -> Callable[..., Any]:
        def refuse(*_: object, **__: object) -> None:
            raise _refused(files, f"{name}: a hook of backward")

        return refuse

    names = ("register_full_backward_hook", "register_full_backward_pre_hook", "register_backward_hook")
    yield from ((nn.Module, name, refused(name)) for name in names)
    enter = saved_tensors_hooks.__enter__

    def entered(self: saved_tensors_hooks) -> Any:  # noqa: ANN401 (what torch's own returns)
        if isinstance(self, save_on_cpu) or type(self).__module__ == "torch.utils.checkpoint":
            return enter(self)
        raise _refused(files, "saved_tensors_hooks: a hook of backward")

    yield saved_tensors_hooks, "__enter__", entered
    yield torch.inference_mode, "__enter__", _without_gradient


def _without_gradient(self: Any) -> None:  # noqa: ANN401 (torch.inference_mode, whose own guard export does not see)
    self._inference_mode_context = torch.no_grad() if self.mode else contextlib.nullcontext()
    self._inference_mode_context.__enter__()


def _refused(files: frozenset[str], fault: str, rule: str = _RULE, fix: str = _FIX) -> CaptureError:
    return CaptureError(refusal(line_here(files), f"{fault} in forward", rule, fix=fix))
