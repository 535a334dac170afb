"""What forward returns, as far as a graph can return it: tensors and plain values, in dicts, tuples and records.

A model may return other objects beside its loss, caches of keys and values above all. Nobody has asked for them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils import _pytree as pytree

_PLAIN = (torch.Tensor, bool, int, float, complex, str, type(None))


@contextlib.contextmanager
def only_tensors(module: nn.Module) -> Iterator[None]:
    """While active, the module returns None in the place of whatever is no tensor, and fields by their names."""
    hook = module.register_forward_hook(lambda _, args, output: pytree.tree_map(_known, output))
    try:
        yield
    finally:
        hook.remove()


def _known(leaf: object) -> object:
    """A leaf of what forward returns: itself where it is plain, its fields where it has some, else None."""
    if isinstance(leaf, _PLAIN):
        return leaf
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        fields = {field.name: getattr(leaf, field.name, None) for field in dataclasses.fields(leaf)}
        return pytree.tree_map(_known, fields)
    return None
