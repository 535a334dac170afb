"""Files that a command writes: refused by name before the work starts, and again where they cannot be written after it.

Those of a cache are written where that goes, and nothing is said where it does not.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from autopar.errors import ConfigError, refusal


def check_file(option: str, file: Path, what: str) -> None:
    """Raise ConfigError where a file cannot be written: `what` is it, as in "a trace is one file". Leaves it as it is."""
    folder = file.absolute().parent
    if file.is_dir():
        raise _unwritable(option, file, "cannot be written: it is a folder", what)
    if not folder.is_dir():
        raise _unwritable(option, file, f"cannot be written: there is no folder {file.parent}", what)
    try:
        if file.exists():
            with file.open("r+b"):
                return
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(option, file, f"cannot be written: {error.strerror or error}", what) from error


def write_file(option: str, file: Path, text: str, what: str) -> None:
    """Write a text. Raises ConfigError where that fails after all: a full disk, say."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(option, file, f"cannot be written: {error.strerror or error}", what) from error


def keep_file(file: Path, content: bytes) -> None:
    """Write a file of a cache beside its place, and move it there: writers do not meet. Where that fails nothing is kept."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=file.parent, suffix=".draft")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(draft).replace(file)


def _unwritable(option: str, file: Path, fault: str, what: str) -> ConfigError:
    return ConfigError(refusal(f"{option} {file}", fault, what, fix="name a file in a folder that can be written"))
