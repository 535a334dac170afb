"""What a checkpoint's folder holds, as its ``index.json`` says it: the last file that is written, and the mark that it is whole.

    DIR/step-00000120/index.json               {"sha256": of the content as it is dumped, "content": an `Index`}
    DIR/step-00000120/rank-00003.safetensors   the parts that rank 3 has written, by the keys of the index

A part is the product of its rows along every dim, as `autopar.runtime.parameters.shards.rows` describes what a rank holds: so any
other grid finds the slices that it needs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autopar.errors import CheckpointError, refusal
from autopar.runtime.parameters.shards import Runs

INDEX, VERSION = "index.json", 1
MODEL, OPTIMIZER, RANDOM = "model", "optimizer", "random"
"""How keys begin: ``model/NAME``, ``optimizer/NAME/FIELD``, and ``random/torch`` for a rank's own generator."""


@dataclass(frozen=True, slots=True)
class SavedPart:
    """A part of a tensor: the file that has it, and which rows of every dim it is, as half-open intervals."""

    file: str
    rows: tuple[Runs, ...]


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A tensor: its dtype (``float32``), whole shape, further names, and parts, of which each element is in one."""

    dtype: str
    shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()
    parts: tuple[SavedPart, ...] = ()


@dataclass(frozen=True, slots=True)
class SavedFile:
    """The bytes of a file, their sha256, and their checksum (see `digest`), which earlier versions did not note."""

    bytes: int
    sha256: str
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class Index:
    """A checkpoint.

    `cuts` are the fractions of axes that were not balanced, `places` where segments were moved to. `groups` are the optimizer's,
    None without one; `scalars` what it keeps for a parameter as a whole, by name and field, as `encoded`. `random` is the
    model's seed and its steps so far. `scheduler` and `scaler` are their own dicts, `extra` is the user's.
    """

    version: int
    autopar: str
    torch: str
    model: str
    grid: str
    step: int
    ranks: int
    tensors: Mapping[str, SavedTensor]
    files: Mapping[str, SavedFile]
    cuts: Mapping[str, tuple[float, ...]]
    places: Mapping[str, int]
    random: tuple[int, int]
    groups: list[dict[str, Any]] | None = None
    scalars: Mapping[str, Mapping[str, Any]] | None = None
    scheduler: Any = None
    scaler: Any = None
    extra: Any = None


def dumped(index: Index) -> str:
    """The text of ``index.json``."""
    content = asdict(index)
    return json.dumps({"sha256": _digest(content), "content": content}) + "\n"


def read_index(folder: Path) -> Index:
    """The index of a checkpoint's folder. Raises CheckpointError where there is none, or not the one that was written."""
    import msgspec  # a program that saves nothing does not load it

    file = folder / INDEX
    rule = "the index is the last file of a checkpoint that is written, and has the hash of its content"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        content, digest = said["content"], said["sha256"]
        if content["version"] != VERSION:
            fix = f"read it with autopar {content['autopar']}"
            given = f"it has version {content['version']}, and this autopar reads {VERSION}"
            raise CheckpointError(refusal(str(folder), given, rule, fix=fix))
        if digest != _digest(content):
            raise CheckpointError(refusal(str(file), "its content is not what was written", rule))
        return msgspec.convert(content, Index)
    except FileNotFoundError as error:
        raise CheckpointError(
            refusal(str(folder), f"there is no {INDEX}: it was not written to its end", rule)
        ) from error
    except (OSError, ValueError, KeyError, TypeError, msgspec.ValidationError) as error:
        raise CheckpointError(refusal(str(file), f"cannot be read: {type(error).__name__}: {error}", rule)) from error


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
