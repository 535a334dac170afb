"""A compiled folder on disk: ``program.py``, ``plan.json``, and tensors that have no other home.

A live module has no file to make its parameters from, so they are stored too; constants that capture lifted out of the model
always are. Files appear whole or not at all, the plan last.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autopar.errors import PlanError, refusal
from autopar.plan import to_json

if TYPE_CHECKING:
    import torch

    from autopar.compiler import Compiled


def save(compiled: Compiled, folder: Path) -> Path:
    """Write a compiled model into `folder`, made where it is missing. Returns the folder."""
    from torch import nn

    if folder.exists() and not folder.is_dir():
        raise PlanError(refusal(str(folder), "is a file", "a compiled model is a folder", fix="choose another -o"))
    folder.mkdir(parents=True, exist_ok=True)
    plan = compiled.plan
    if plan.model.path:
        path = Path(os.path.relpath(Path(plan.model.path).resolve(), folder.resolve())).as_posix()
        plan = replace(plan, model=replace(plan.model, path=path))
    if compiled.constants:
        _write_tensors(folder / "constants.safetensors", compiled.constants)
    if not plan.model.path and isinstance(compiled.model, nn.Module):
        names = {item.name for item in plan.parameters if item.kind != "constant"}
        state = compiled.model.state_dict(keep_vars=False)
        _write_tensors(folder / "parameters.safetensors", {name: state[name] for name in sorted(names & set(state))})
    _write(folder / "program.py", compiled.source)
    _write(folder / "plan.json", to_json(plan))
    return folder


def _write(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text)
    aside.replace(path)


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    aside = path.with_name(path.name + ".tmp")
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, aside)
    aside.replace(path)
