"""Running in another precision than compiled: which dtype then stands for which.

Real numbers take the wanted dtype, complex ones the complex dtype of the same digits, all others stay as they are.
`torch.nn.Module.to` would drop imaginary parts instead, and `double` would leave complex numbers alone.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def precise(dtype: torch.dtype, target: torch.dtype | None) -> torch.dtype:
    """The dtype that stands for `dtype` where numbers are to be as precise as those of `target`.

    >>> precise(torch.complex64, torch.float64), precise(torch.int64, torch.float64)
    (torch.complex128, torch.int64)
    """
    if target is None or not (dtype.is_floating_point or dtype.is_complex):
        return dtype
    if not dtype.is_complex:
        return target
    return torch.complex128 if target is torch.float64 else torch.complex64


def in_precision(tensor: Tensor, target: torch.dtype | None) -> Tensor:
    """The tensor as precise as `target`."""
    return tensor.to(precise(tensor.dtype, target))


def module_in_precision(module: Module, target: torch.dtype | None) -> Module:
    """The module with its parameters and buffers, in place, as precise as `target`."""
    module._apply(lambda tensor: in_precision(tensor, target))  # type: ignore[no-untyped-call]
    return module
