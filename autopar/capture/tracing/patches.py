"""Attributes of torch, or of a user's function, that are others while forward runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

Patch = tuple[Any, str, object]  # the object, the name of its attribute, what it holds meanwhile


@contextlib.contextmanager
def patched(patches: Iterable[Patch]) -> Iterator[None]:
    """While active, these attributes, which the objects have themselves, hold something else."""
    with contextlib.ExitStack() as stack:
        for holder, name, other in patches:
            stack.callback(setattr, holder, name, getattr(holder, name))
            setattr(holder, name, other)
        yield
