"""Verdicts kept on disk, one small JSON file each, so that an operator is searched once and not in every run.

The file's name is the hash of everything that a verdict depends on: the operator's schema and, where it is Python, its
source; torch's version and ours; and the experiment (made-up shapes, kinds of operands, literals). Files are written
beside their place and moved into it, so that writers do not meet; one that cannot be read counts as absent. What is
read is tried once more before it is believed (`discover_search.holds`).

``AUTOPAR_CACHE`` names the folder; ``off`` keeps nothing. Without it: ``$XDG_CACHE_HOME/autopar`` or ``~/.cache/autopar``.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from pathlib import Path

import msgspec
import torch

from autopar.files import keep_file
from autopar.ops.discovery.call_shape import Form, experiment
from autopar.ops.discovery.search import Verdict
from autopar.ops.record import user_functions
from autopar.ops.record.overloads import overload_of
from autopar.version import __version__

_VERSION = 1


def folder() -> Path | None:
    """Where verdicts are kept; None where they are not."""
    named = os.environ.get("AUTOPAR_CACHE", "")
    if named.lower() in ("off", "0", "none"):
        return None
    if named:
        return Path(named) / "operators"
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path("~/.cache").expanduser()) / "autopar" / "operators"


def key(form: Form) -> str:
    """The name of a form's file."""
    overload = overload_of(form.target)
    parts = (
        _VERSION,
        __version__,
        torch.__version__,
        str(overload._schema),
        _source(form.target),
        experiment(form),
    )
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def _source(target: str) -> str:
    """The source of an operator that torch.library.custom_op made, or of a function; nothing of any other."""
    from torch._library.custom_ops import OPDEFS

    op, own = OPDEFS.get("::".join(target.split(".")[:2])), user_functions.kept(target)
    try:
        return inspect.getsource(own.function) if own else inspect.getsource(op._init_fn) if op is not None else ""
    except (OSError, TypeError):
        return ""


def read(form: Form) -> Verdict | None:
    """The verdict that was kept, if there is one."""
    file = _file(form)
    try:
        return None if file is None else msgspec.json.decode(file.read_bytes(), type=Verdict)
    except (OSError, ValueError, msgspec.DecodeError):
        return None


def write(form: Form, verdict: Verdict) -> None:
    """Keep a verdict; a folder that cannot be written to keeps none."""
    file = _file(form)
    if file is not None:
        keep_file(file, msgspec.json.encode(verdict))


def _file(form: Form) -> Path | None:
    place = folder()
    return None if place is None else place / f"{key(form)}.json"
