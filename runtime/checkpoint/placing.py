"""Files that are written beside their place, and have their names when all of them are whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autopar.errors import CheckpointError, refusal
from autopar.runtime.checkpoint import durable

_WEIGHTS = ("model.safetensors.index.json", "model.safetensors", "model-*-of-*.safetensors")
"""What an earlier export may have left that would be read beside a new one."""


def check(to: Path, single: bool, overwrite: bool, *, sharded: bool) -> None:
    """Raise CheckpointError where a file or folder may not be written at a path, before anything is read."""
    where = f"--to {to}"
    if single and sharded:
        rule = "weights in several files are a folder, which says which file has what"
        raise CheckpointError(refusal(where, "one file, and --shard-bytes", rule, fix="name a folder, or no size"))
    if single and to.is_dir():
        raise CheckpointError(refusal(where, "it is a folder", "a name that ends in .safetensors is a file"))
    if not single and to.exists() and not to.is_dir():
        raise CheckpointError(refusal(where, "it is a file", "weights go into a folder, or into a *.safetensors"))
    there = [to.name] if single and to.exists() else sorted(one.name for one in to.iterdir()) if to.is_dir() else []
    if there and not overwrite:
        rule = "what is there is replaced only where that is asked for"
        fix = "another place, or --overwrite: files of the same names are replaced, and weights that were there go"
        given = "it is there" if single else f"it holds {len(there)} files"
        raise CheckpointError(refusal(where, given, rule, there[:10], fix))


@contextmanager
def placed(to: Path, single: bool, overwrite: bool) -> Iterator[Path]:
    """A folder to write into; what is in it goes to its place at the end, or is removed where writing fails.

    Raises CheckpointError for what the system says.
    """
    target = to.parent if single else to
    aside = target.parent / f".writing-{to.name}" if not single else target / f".writing-{to.name}"
    try:
        durable.make_folder(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
        durable.make_folder(aside)
        try:
            yield aside
            _move(aside, target, single, overwrite)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        rule = "weights are written beside their place, and renamed when they are whole"
        raise CheckpointError(refusal(f"--to {to}", f"cannot be written: {error.strerror or error}", rule)) from error


def _move(aside: Path, target: Path, single: bool, overwrite: bool) -> None:
    if not single and not (target.exists() and any(target.iterdir())):
        durable.rename(aside, target)  # at once; an empty folder makes room
        return
    names = {one.name for one in aside.iterdir()}
    if not single and overwrite:  # the index first, and the new one last: it never names files that are not there
        for pattern in _WEIGHTS:
            for old in target.glob(pattern):
                old.unlink()
    for name in sorted(names, key=lambda name: name.endswith(".json")):
        (aside / name).replace(target / name)
