"""A folder that `save_pretrained` wrote, of which another one is made with other weights: its names, and its files beside them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopar.errors import CheckpointError, refusal
from autopar.runtime.parameters.weight_files import INDEX, ONE, SUFFIX, opened

_CONFIG, _ADAPTER = "config.json", "adapter_config.json"
_ADAPTED = ((r"\.modules_to_save\.[^.]+", ""), (r"(\.lora_\w+)\.[^.]+", r"\1"))
"""How peft's files call what its models call by the name of an adapter as well."""
_BESIDE = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py", "LICENSE*", "README.md")
_NOT_BESIDE = ("*.index.json", "trainer_state.json")
_DTYPES = ("dtype", "torch_dtype")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Where it is, and the shapes of its weights by name, none where it has none that can be read; or a folder of peft's."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    adapter: bool = False

    @staticmethod
    def read(path: Path) -> ModelFolder:
        """Look into a folder. Raises CheckpointError where it has no configuration."""
        adapter = (path / _ADAPTER).is_file()
        if not adapter and not (path / _CONFIG).is_file():
            rule = "a folder that `save_pretrained` wrote holds a config.json, or peft's an adapter_config.json"
            raise CheckpointError(refusal(f"--like {path}", f"it has no {_CONFIG}", rule))
        readable = (path / INDEX).is_file() or any(path.glob(f"*{SUFFIX}"))
        shapes = {name: one.shape for name, one in opened(path).items()} if readable else {}
        if adapter and not shapes:
            rule = "which tensors are adapters is told by those in the folder"
            fix = "model.save_pretrained(folder), as it is before training"
            raise CheckpointError(refusal(f"--like {path}", "it has no adapter_model.safetensors", rule, fix=fix))
        return ModelFolder(path, shapes, adapter)

    @property
    def file(self) -> str:
        """The name of weights that are in one file."""
        return f"adapter_model{SUFFIX}" if self.adapter else ONE

    def chosen(self, names: Sequence[str]) -> str | None:
        """Of the names of a tied tensor the one that the folder's weights have, or the first; None for the base of adapters."""
        if self.adapter:
            names = [_in_file(name) for name in names]
        return next((name for name in names if name in self.shapes), None if self.adapter else names[0])

    def compared(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """What differs in names from its weights, in lines. Raises CheckpointError where shapes do."""
        if not self.shapes:
            return []
        problems = [
            f"{name} has shape {shape}, in {self.path.name} it is {self.shapes[name]}"
            for name, shape in shapes.items()
            if self.shapes.get(name, shape) != shape
        ]
        if problems:
            rule = "a configuration is copied beside weights of its own model"
            given = f"{len(problems)} tensors have other shapes"
            raise CheckpointError(refusal(f"--like {self.path}", given, rule, problems))
        lines = [f"{name} is not among the weights of {self.path.name}" for name in shapes if name not in self.shapes]
        return lines + [f"{name} of {self.path.name} is not written" for name in self.shapes if name not in shapes]

    def copy(self, to: Path, dtype: str | None) -> None:
        """Copy everything but weights; the configuration says the dtype of the new ones, as `save_pretrained` has it."""
        for pattern in _BESIDE:
            for file in self.path.glob(pattern):
                if file.is_file() and not any(file.match(other) for other in _NOT_BESIDE):
                    shutil.copyfile(file, to / file.name)
        if dtype is not None and not self.adapter:
            config = json.loads((self.path / _CONFIG).read_text(encoding="utf-8"))
            (to / _CONFIG).write_text(json.dumps(_with_dtype(config, dtype), indent=2) + "\n", encoding="utf-8")


def _in_file(name: str) -> str:
    """A tensor's name without that of its adapter.

    >>> _in_file("q.lora_A.default.weight"), _in_file("score.modules_to_save.default.weight")
    ('q.lora_A.weight', 'score.weight')
    """
    for pattern, new in _ADAPTED:
        name = re.sub(pattern, new, name)
    return name


def _with_dtype(config: Any, dtype: str) -> Any:  # noqa: ANN401 (plain JSON)
    """The configuration, and those of parts in it, with another dtype where they have one."""
    if not isinstance(config, dict):
        return config
    return {key: dtype if key in _DTYPES and value else _with_dtype(value, dtype) for key, value in config.items()}
