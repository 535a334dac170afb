"""Whose memory a tensor has, and how often it was written: what is asked of tensors while forward is traced."""

from __future__ import annotations

from torch import Tensor
from torch._C import DisableTorchFunction


def version(tensor: Tensor) -> int:
    """A number that every write to the tensor, or to another of its memory, changes; -1 for one of inference mode."""
    with DisableTorchFunction():  # nobody who watches forward needs to know
        return -1 if tensor.is_inference() else tensor._version


def memory(tensor: Tensor) -> int:
    """The same number for all tensors that share memory."""
    with DisableTorchFunction():
        return int(tensor.untyped_storage()._cdata)
