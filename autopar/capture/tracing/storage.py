"""Tensors that forward meets while it is traced: those in arguments, whose memory each has, how often it was written."""

from __future__ import annotations

from torch import Tensor
from torch._C import DisableTorchFunction
from torch.utils._pytree import tree_leaves


def tensors_in(tree: object) -> list[Tensor]:
    """The tensors in nested arguments or results."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def version(tensor: Tensor) -> int:
    """A number that every write to the tensor, or to another of its memory, changes; -1 for one of inference mode."""
    with DisableTorchFunction():  # nobody who watches forward needs to know
        return -1 if tensor.is_inference() else tensor._version


def memory(tensor: Tensor) -> int:
    """The same number for all tensors that share memory."""
    with DisableTorchFunction():
        return int(tensor.untyped_storage()._cdata)
