"""A user's ``model.py`` as a record: the model, its example inputs, and where given its optimizer and batches.

A model file defines `model` (an nn.Module, or a function that returns one) and `example_inputs` (a tuple, a dict, or a
function returning one); optionally `optimizer(params)`, `scheduler(optimizer)`, `clip_grad_norm`, and `batches()` or
`batches(part)`, `evaluate` and `inputs` alike. Both the compiler and the runtime read it, so this module imports neither.
Imports of files that stand beside it work, as they do for ``python model.py``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from autopar.errors import AutoparError, ConfigError, fix_for, nearest, refusal

Inputs = tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a model file defines.

    path            the file, absolute
    name            its stem, ``"gpt2"``
    sha256          of its bytes
    attribute       the name of the model in the file
    model           an nn.Module or a function that returns one
    example_inputs  returns a tuple (positional) or dict (keyword) of forward's arguments. Raises ConfigError
    optimizer       ``optimizer(params)`` returns a torch optimizer; None where the file has none
    batches         returns an iterator of inputs to train on, like the example inputs; None where the file has none.
                    ``batches(part)`` reads what a rank needs of them, see `takes_part`
    evaluate        the same to evaluate on, once
    inputs          the same to predict from, once, without labels
    metrics         ``metrics(outputs, batch)`` returns numbers by name for a batch that was evaluated, see `evaluation`
    scheduler       ``scheduler(optimizer)`` returns a schedule of torch's for the learning rate; None where the file has none
    clip_grad_norm  the largest norm of all gradients together, which longer ones are scaled down to; None for any
    """

    path: Path
    name: str
    sha256: str
    attribute: str
    model: nn.Module | Callable[[], nn.Module]
    example_inputs: Callable[[], Inputs]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None
    batches: Callable[..., Iterator[Inputs]] | None
    evaluate: Callable[..., Iterator[Inputs]] | None = None
    inputs: Callable[..., Iterator[Inputs]] | None = None
    scheduler: Callable[[torch.optim.Optimizer], object] | None = None
    clip_grad_norm: float | None = None
    metrics: Callable[[Any, Inputs], Mapping[str, Any]] | None = None

    @property
    def takes_part(self) -> bool:
        """Whether `batches` has a parameter called part: it then yields this rank's part of every batch."""
        return self.batches is not None and self.wants_part(self.batches)

    @staticmethod
    def wants_part(function: Callable[..., object]) -> bool:
        """Whether a function has a parameter called part."""
        return "part" in inspect.signature(function).parameters


def load(path: str | Path) -> ModelFile:
    """Read ``model.py``, or ``model.py:NAME`` to take another attribute than `model` as the model.

    Raises ConfigError where the file is missing, fails while it is loaded, or lacks what it must define.
    """
    file, attribute = _split(str(path))
    if not file.is_file():
        others = sorted(other.name for other in file.parent.glob("*.py")) if file.parent.is_dir() else []
        fault = "it is a folder" if file.is_dir() else f"there is no such file{nearest(file.name, others)}"
        fix = (
            "give the path of a model.py"
            + " (`autopar compile` writes one for a folder of save_pretrained)" * file.is_dir()
        )
        raise ConfigError(refusal(str(file), fault, "a model file is a Python file", fix=fix))
    file = file.resolve()
    content = file.read_bytes()
    names = vars(_execute(file, hashlib.sha256(content).hexdigest()))
    return ModelFile(
        path=file,
        name=file.stem,
        sha256=hashlib.sha256(content).hexdigest(),
        attribute=attribute,
        model=_model(names, attribute, file),
        example_inputs=_example_inputs(names, file),
        optimizer=_optional(names, "optimizer", file),
        batches=_optional(names, "batches", file),
        evaluate=_optional(names, "evaluate", file),
        inputs=names["inputs"] if callable(names.get("inputs")) else None,
        scheduler=_optional(names, "scheduler", file),
        clip_grad_norm=_clip(names, file),
        metrics=_optional(names, "metrics", file),
    )


def _split(text: str) -> tuple[Path, str]:
    """``mlp.py:MLP`` as the file and the attribute; `model` where none is named."""
    head, colon, tail = text.rpartition(":")
    named = bool(colon) and tail.isidentifier() and not Path(text).exists()
    return (Path(head), tail) if named else (Path(text), "model")


def _execute(file: Path, digest: str) -> ModuleType:
    """Run the file as a module of its own name; its folder comes last on the import path."""
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(f"_model_{file.stem}_{digest[:12]}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(refusal(str(file), "this is no Python file", "a model file is named *.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        del sys.modules[spec.name]
        if isinstance(error, AutoparError):
            raise
        fault = f"the file stops while it is loaded: {type(error).__name__}: {error}"
        rule = "a model file can be imported without doing the work"
        raise ConfigError(refusal(_place(error, file), fault, rule, fix=fix_for(error))) from error
    return module


def _place(error: BaseException, file: Path) -> str:
    """The user's own line: the innermost one in `file`, or the one that is no Python."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}: `{(error.text or '').strip()}`"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"{file.name}:{frames[-1].lineno}: `{frames[-1].line}`" if frames else str(file)


def _model(names: Mapping[str, Any], attribute: str, file: Path) -> Any:  # noqa: ANN401  (a module or a function of one)
    rule = f"a model file defines {attribute}: an nn.Module, or a function without arguments that returns one"
    if attribute not in names:
        offered = [
            name for name, value in names.items() if _public(name) and (callable(value) or isinstance(value, nn.Module))
        ]
        fault = f"it does not define {attribute}{nearest(attribute, offered)}"
        here = ", ".join(name for name in offered if getattr(names[name], "__module__", "") == names["__name__"])
        fix = f"define {attribute}, or name another of its attributes: {file.name}:NAME" + (
            f" (it has {here})" if here else ""
        )
        raise ConfigError(refusal(file.name, fault, rule, fix=fix))
    model = names[attribute]
    if not isinstance(model, nn.Module) and not callable(model):
        raise ConfigError(refusal(file.name, f"{attribute} is {type(model).__name__}", rule))
    return model


def _example_inputs(names: Mapping[str, Any], file: Path) -> Callable[[], Inputs]:
    rule = "a model file defines example_inputs: a tuple or dict of forward's arguments, or a function that returns one"
    if "example_inputs" not in names:
        fault = (
            f"it does not define example_inputs{nearest('example_inputs', [name for name in names if _public(name)])}"
        )
        fix = 'write e.g. `def example_inputs(): return {"x": torch.zeros(32, 784)}`'
        raise ConfigError(refusal(file.name, fault, rule, fix=fix))
    value = names["example_inputs"]

    def inputs() -> Inputs:
        try:
            inputs = value() if callable(value) else value
        except Exception as error:  # the user's function may raise anything
            text = f"example_inputs stops with {type(error).__name__}: {error}"
            raise ConfigError(refusal(_place(error, file), text, rule, fix=fix_for(error))) from error
        if isinstance(inputs, list):
            return tuple(inputs)
        if not isinstance(inputs, tuple | dict):
            fix = "put it in a tuple: (x,)" if isinstance(inputs, torch.Tensor) else ""
            raise ConfigError(refusal(file.name, f"example_inputs is {type(inputs).__name__}", rule, fix=fix))
        return inputs

    return inputs


def _optional(names: Mapping[str, Any], name: str, file: Path) -> Any:  # noqa: ANN401  (a function of the user's, or None)
    value = names.get(name)
    if value is not None and not callable(value):
        rule = {
            "optimizer": "optimizer(params) returns a torch optimizer",
            "batches": "batches() yields inputs",
            "metrics": "metrics(outputs, batch) returns numbers, or pairs of a sum and a count, by name",
            "scheduler": "scheduler(optimizer) returns a schedule of torch.optim.lr_scheduler",
        }.get(name, f"{name}() yields inputs to evaluate on")
        raise ConfigError(refusal(file.name, f"{name} is {type(value).__name__}, not a function", rule))
    return value


def _clip(names: Mapping[str, Any], file: Path) -> float | None:
    value = names.get("clip_grad_norm")
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf
    ):
        rule = "clip_grad_norm is a number above 0: gradients whose norm is larger are scaled down to it"
        raise ConfigError(refusal(file.name, f"clip_grad_norm is {value!r}", rule))
    return value


def _public(name: str) -> bool:
    return not name.startswith("_")
