"""Every change of a disk that a checkpoint makes, in one place: on disk when it returns, or raised as the system says it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def write_text(path: Path, text: str) -> None:
    """A text file, flushed."""
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, flushed."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:  # a full disk, in words of its own
        raise OSError(str(error)) from error
    _flush(path)


def make_folder(path: Path) -> None:
    """A folder, with those above it."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for one in missing:
        _flush(one.parent)


def rename(old: Path, new: Path) -> None:
    """One name for another in one folder, at once or not at all, with what the folder holds flushed before and after."""
    _flush(old)
    old.rename(new)
    _flush(new.parent)


def remove(path: Path) -> None:
    """A folder with all that is in it."""
    shutil.rmtree(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
