"""Which line of the program a call of a communicator comes from, read off the stack.

Walking out from the call, the first frame that is neither the runtime's nor torch's is the program's line, and the last
frame of the runtime before it is the primitive that stands in that line. In a backward pass the stack ends in the line
that has called backward, which says nothing; there the line of the forward call counts, which `primitives.function`
has left in the context.
"""

from __future__ import annotations

import contextlib
import linecache
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType

import torch

_RUNTIME = os.path.dirname(__file__)  # noqa: PTH120  (compared with names of code, as strings)
_TORCH = os.path.dirname(torch.__file__)  # noqa: PTH120
# Files of the runtime that use it as a program does.
_PROGRAMS = tuple(os.path.join(_RUNTIME, name) for name in ("main.py", "verify.py"))  # noqa: PTH118
_CALLER = os.path.join(_RUNTIME, "job.py")  # noqa: PTH118  (it calls the model for them)
_GRADIENTS = os.path.join(_RUNTIME, "gradients.py")  # noqa: PTH118
_OUTSIDE, _INSIDE, _BETWEEN, _SUMS = range(4)


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A call in a program: the primitive, ``folder/file.py:line``, and the text of that line. One object per place."""

    what: str
    where: str
    source: str

    def __str__(self) -> str:
        return f"{self.what} at {self.where}" if self.where else self.what


def here(frame: FrameType | None) -> Site:
    """The site of a call made in this frame."""
    what = ""
    while frame is not None:
        code = frame.f_code
        kind = _kind(code.co_filename)
        if kind == _OUTSIDE:
            return _site(code.co_filename, frame.f_lineno, what)
        if kind == _SUMS:
            what = "sum of gradients"
        elif kind == _INSIDE and what != "sum of gradients":
            if code.co_name == "backward" and isinstance(site := _forward(frame), Site):
                return _adjoint(site)
            what = code.co_qualname
        frame = frame.f_back
    return _site("", 0, what)


def _forward(frame: FrameType) -> object:
    """What the forward of an autograd function has left for the backward that this frame runs."""
    return getattr(frame.f_locals.get("ctx"), "site", None)


@lru_cache(maxsize=4096)
def _kind(file: str) -> int:
    if file == _GRADIENTS:
        return _SUMS
    if file in _PROGRAMS:
        return _OUTSIDE
    if file != _CALLER and file.startswith(_RUNTIME + os.sep):
        return _INSIDE
    between = file in (_CALLER, contextlib.__file__) or file.startswith(_TORCH + os.sep)
    return _BETWEEN if between else _OUTSIDE


@lru_cache(maxsize=4096)
def _site(file: str, line: int, what: str) -> Site:
    where = f"{'/'.join(Path(file).parts[-2:])}:{line}" if file else ""
    return Site(what, where, linecache.getline(file, line).strip())


@lru_cache(maxsize=4096)
def _adjoint(site: Site) -> Site:
    return Site(f"adjoint of {site.what}", site.where, site.source)
