"""Which line of the program a call of a communicator comes from, read off the stack.

Walking out from the call, the first frame that is neither the runtime's nor torch's is the program's line, and the last
frame of the runtime before it is the primitive that stands in that line. In a backward pass the stack ends in the line
that has called backward, which says nothing; there the line of the forward call counts, which `primitives.autograd`
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

_RUNTIME = str(Path(__file__).parents[1]) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep
ROLE = "CALL_SITE"
"""A global of a file of the runtime that is not to be named as a primitive is: one of the three below."""
PROGRAM, PASSED, SUMS = "program", "passed", "sum of gradients"
"""It calls primitives as a program does; it only calls the program; its calls sum gradients."""
_PRIMITIVE = "primitive"


@dataclass(frozen=True, slots=True, eq=False)
class CallSite:
    """A call in a program: the primitive, ``folder/file.py:line``, and the text of that line. One object per place."""

    what: str
    where: str
    source: str

    def __str__(self) -> str:
        return f"{self.what} at {self.where}" if self.where else self.what


def here(frame: FrameType | None) -> CallSite:
    """The site of a call made in this frame."""
    what = ""
    while frame is not None:
        code = frame.f_code
        role = frame.f_globals.get(ROLE) or _role(code.co_filename)
        if role == PROGRAM:
            return _site(code.co_filename, frame.f_lineno, what)
        if role == SUMS:
            what = SUMS
        elif role == _PRIMITIVE and what != SUMS:
            if code.co_name == "backward" and isinstance(site := _forward(frame), CallSite):
                return _adjoint(site)
            what = code.co_qualname
        frame = frame.f_back
    return _site("", 0, what)


def at(file: str, line: int) -> CallSite:
    """The site of a line of a program."""
    return _site(file, line, "")


def _forward(frame: FrameType) -> object:
    """What the forward of an autograd function has left for the backward that this frame runs."""
    return getattr(frame.f_locals.get("ctx"), "site", None)


@lru_cache(maxsize=4096)
def _role(file: str) -> str:
    if file.startswith(_RUNTIME):
        return _PRIMITIVE
    return PASSED if file == contextlib.__file__ or file.startswith(_TORCH) else PROGRAM


@lru_cache(maxsize=4096)
def _site(file: str, line: int, what: str) -> CallSite:
    where = f"{'/'.join(Path(file).parts[-2:])}:{line}" if file else ""
    return CallSite(what, where, linecache.getline(file, line).strip())


@lru_cache(maxsize=4096)
def _adjoint(site: CallSite) -> CallSite:
    return CallSite(f"adjoint of {site.what}", site.where, site.source)
