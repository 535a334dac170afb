"""What `torch.autocast` asks of the distributed forms that torch does not know.

Inside an autocast region torch runs its own operators in the dtype of its lists: matrix products and convolutions in the
region's, losses in float32. A distributed form calls torch's operators on local parts and so follows the lists, where
it does not compute by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autopar.runtime.transport.base import HALVES


def in_float32(x: Tensor) -> Tensor:
    """`x` as autocast gives it to an operator of its float32 list; `x` itself outside of a region."""
    narrow = x.dtype in HALVES
    return x.float() if narrow and torch.is_autocast_enabled(x.device.type) else x


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which numbers of `dtype` are summed."""
    return torch.float32 if dtype in HALVES else dtype
